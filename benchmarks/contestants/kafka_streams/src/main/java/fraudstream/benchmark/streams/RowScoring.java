package fraudstream.benchmark.streams;

import org.apache.kafka.streams.processor.api.ContextualProcessor;
import org.apache.kafka.streams.processor.api.Record;

/** Last step, row by row: each payment is scored when it comes. */
final class RowScoring extends ContextualProcessor<byte[], ScoringRequest, byte[], byte[]> {
    private final Scorer scorer;
    private final DecisionWriter decisions;

    RowScoring(Scorer scorer, float reviewThreshold) {
        this.scorer = scorer;
        this.decisions = new DecisionWriter(reviewThreshold);
    }

    @Override
    public void process(Record<byte[], ScoringRequest> record) {
        ScoringRequest request = record.value();
        float score = scorer.score(request.features(), 1)[0][0];
        context().forward(record.withValue(decisions.write(request.transactionId(), score)));
    }
}
