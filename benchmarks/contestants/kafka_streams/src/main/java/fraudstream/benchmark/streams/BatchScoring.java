package fraudstream.benchmark.streams;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Last step, in batches: payments wait until there are enough of them, or for a moment, and are
 * scored in one call.
 *
 * <p>Kafka Streams may commit at any time between two payments. So those that wait are in a state
 * store too, as one value: whoever goes on with this partition after a commit finds them there.
 */
final class BatchScoring extends ContextualProcessor<byte[], ScoringRequest, byte[], byte[]> {
    static final String STORE = "waiting";

    private static final Duration WAIT_MAX = Duration.ofMillis(20);
    private static final byte[] KEY = {0};
    private static final byte[] NOTHING = {};

    private final Scorer scorer;
    private final DecisionWriter decisions;
    private final int rowsMax;
    private final List<Record<byte[], ScoringRequest>> waiting = new ArrayList<>();
    private byte[] stored;
    private KeyValueStore<byte[], byte[]> store;

    BatchScoring(Scorer scorer, float reviewThreshold, int rowsMax) {
        this.scorer = scorer;
        this.decisions = new DecisionWriter(reviewThreshold);
        this.rowsMax = rowsMax;
    }

    /** Takes over what waited at the last commit; runs once more after a lost transaction. */
    @Override
    public void init(ProcessorContext<byte[], byte[]> context) {
        super.init(context);
        store = context.getStateStore(STORE);
        byte[] left = store.get(KEY);
        stored = left == null ? NOTHING : left;
        waiting.clear();
        for (ByteBuffer buffer = ByteBuffer.wrap(stored); buffer.hasRemaining(); ) {
            ScoringRequest request = ScoringRequest.read(buffer);
            waiting.add(new Record<>(request.cardId(), request, context.currentSystemTimeMs()));
        }
        context.schedule(WAIT_MAX, PunctuationType.WALL_CLOCK_TIME, now -> publish());
    }

    @Override
    public void process(Record<byte[], ScoringRequest> record) {
        waiting.add(record);
        stored = record.value().appendTo(stored);
        store.put(KEY, stored);
        if (waiting.size() >= rowsMax) {
            publish();
        }
    }

    private void publish() {
        if (waiting.isEmpty()) {
            return;
        }
        int columns = ScoringRequest.FEATURES;
        float[] rows = new float[waiting.size() * columns];
        for (int row = 0; row < waiting.size(); row++) {
            System.arraycopy(waiting.get(row).value().features(), 0, rows, row * columns, columns);
        }
        float[][] scores = scorer.score(rows, waiting.size());
        for (int row = 0; row < waiting.size(); row++) {
            Record<byte[], ScoringRequest> record = waiting.get(row);
            byte[] transactionId = record.value().transactionId();
            context().forward(record.withValue(decisions.write(transactionId, scores[row][0])));
        }
        waiting.clear();
        stored = NOTHING;
        store.delete(KEY);
    }
}
