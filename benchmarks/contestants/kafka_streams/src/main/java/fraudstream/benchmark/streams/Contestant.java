package fraudstream.benchmark.streams;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KafkaStreams.State;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Named;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/** The whole job: the topology, the settings (the README says why each), start and end. */
final class Contestant {
    private static final int PARTITIONS = 6;
    private static final Duration CLOSE_TIMEOUT = Duration.ofSeconds(30);
    private static final long CACHE_BYTES = 64L << 20;
    private static final int POLL_RECORDS_MAX = 20_000;
    private static final int PRODUCER_BATCH_BYTES = 128 << 10;
    private static final int RETRY_BACKOFF_MS = 5;
    private static final int RETRY_BACKOFF_MAX_MS = 50;

    private Contestant() {}

    /** Runs until SIGTERM, or until Kafka Streams gives up; tells whether it was the former. */
    static boolean run(Settings settings) throws InterruptedException {
        CountDownLatch over = new CountDownLatch(1);
        KafkaStreams streams = new KafkaStreams(topology(settings), properties(settings));
        streams.setStateListener(
                (now, before) -> {
                    if (now == State.RUNNING) {
                        System.out.println("running");
                    } else if (now == State.ERROR || now == State.NOT_RUNNING) {
                        over.countDown();
                    }
                });
        CloseOptions leaving =
                CloseOptions.groupMembershipOperation(
                                CloseOptions.GroupMembershipOperation.LEAVE_GROUP)
                        .withTimeout(CLOSE_TIMEOUT);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(leaving)));
        streams.start();
        over.await();
        return streams.state() != State.ERROR;
    }

    private static Topology topology(Settings settings) {
        Serde<byte[]> bytes = Serdes.ByteArray();
        StreamsBuilder builder = new StreamsBuilder();
        builder.addStateStore(store(CardProcessor.STORE));
        builder.addStateStore(store(TerminalProcessor.STORE));
        KStream<byte[], ScoringRequest> requests =
                builder.stream(settings.input(), Consumed.with(bytes, bytes))
                        .process(CardProcessor::new, Named.as("card"), CardProcessor.STORE)
                        .repartition(
                                Repartitioned.with(bytes, ScoringRequest.serde())
                                        .withName("by-terminal")
                                        .withNumberOfPartitions(PARTITIONS))
                        .process(
                                TerminalProcessor::new,
                                Named.as("terminal"),
                                TerminalProcessor.STORE);
        decisions(builder, requests, settings).to(settings.output(), Produced.with(bytes, bytes));
        return builder.build();
    }

    private static KStream<byte[], byte[]> decisions(
            StreamsBuilder builder, KStream<byte[], ScoringRequest> requests, Settings settings) {
        Scorer scorer = new Scorer(settings.model());
        float threshold = settings.reviewThreshold();
        int rows = settings.scoreRows();
        if (rows == 1) {
            return requests.process(() -> new RowScoring(scorer, threshold), Named.as("score"));
        }
        builder.addStateStore(store(BatchScoring.STORE));
        return requests.process(
                () -> new BatchScoring(scorer, threshold, rows),
                Named.as("score"),
                BatchScoring.STORE);
    }

    private static StoreBuilder<KeyValueStore<byte[], byte[]>> store(String name) {
        return Stores.keyValueStoreBuilder(
                        Stores.inMemoryKeyValueStore(name), Serdes.ByteArray(), Serdes.ByteArray())
                .withCachingEnabled()
                .withLoggingEnabled(Map.of());
    }

    private static Properties properties(Settings settings) {
        Properties properties = new Properties();
        properties.put(StreamsConfig.APPLICATION_ID_CONFIG, settings.group());
        properties.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, settings.bootstrapServers());
        properties.put(StreamsConfig.STATE_DIR_CONFIG, settings.stateDir().toString());
        properties.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, settings.threads());
        properties.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        properties.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, settings.commitIntervalMs());
        properties.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, CACHE_BYTES);
        properties.put(
                StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG),
                POLL_RECORDS_MAX);
        properties.put(
                StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG),
                PRODUCER_BATCH_BYTES);
        properties.put(
                StreamsConfig.producerPrefix(ProducerConfig.RETRY_BACKOFF_MS_CONFIG),
                RETRY_BACKOFF_MS);
        properties.put(
                StreamsConfig.producerPrefix(ProducerConfig.RETRY_BACKOFF_MAX_MS_CONFIG),
                RETRY_BACKOFF_MAX_MS);
        return properties;
    }
}
