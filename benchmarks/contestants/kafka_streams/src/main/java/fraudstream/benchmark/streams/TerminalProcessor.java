package fraudstream.benchmark.streams;

import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** Second step: what the payment's terminal says. Goes on, complete, under the card's id. */
final class TerminalProcessor implements Processor<byte[], ScoringRequest, byte[], ScoringRequest> {
    static final String STORE = "terminals";

    private final History layout = History.ofTerminal();
    private final Windows windows = new Windows();
    private ProcessorContext<byte[], ScoringRequest> context;
    private KeyValueStore<byte[], byte[]> store;

    @Override
    public void init(ProcessorContext<byte[], ScoringRequest> context) {
        this.context = context;
        this.store = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<byte[], ScoringRequest> record) {
        byte[] terminalId = record.key();
        ScoringRequest request = record.value();
        byte[] history = store.get(terminalId);
        layout.measure(history, request.timeMs(), 0, windows);
        store.put(terminalId, layout.insert(history, request.timeMs(), 0));
        request.complete(windows);
        context.forward(record.withKey(request.cardId()));
    }
}
