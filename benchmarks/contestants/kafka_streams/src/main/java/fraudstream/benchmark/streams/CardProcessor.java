package fraudstream.benchmark.streams;

import java.nio.charset.StandardCharsets;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** First step: what the payment and its card say. Goes on under the terminal's id. */
final class CardProcessor implements Processor<byte[], byte[], byte[], ScoringRequest> {
    static final String STORE = "cards";

    private final History layout = History.ofCard();
    private final Windows windows = new Windows();
    private ProcessorContext<byte[], ScoringRequest> context;
    private KeyValueStore<byte[], byte[]> store;

    @Override
    public void init(ProcessorContext<byte[], ScoringRequest> context) {
        this.context = context;
        this.store = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
        byte[] cardId = record.key();
        Payment payment = Payment.parse(record.value());
        byte[] history = store.get(cardId);
        layout.measure(history, payment.timeMs(), payment.amountMinor(), windows);
        store.put(cardId, layout.insert(history, payment.timeMs(), payment.amountMinor()));
        context.forward(
                record.withKey(payment.terminalId().getBytes(StandardCharsets.UTF_8))
                        .withValue(ScoringRequest.of(payment, cardId, windows)));
    }
}
