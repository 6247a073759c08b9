package fraudstream.benchmark.streams;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.StreamWriteFeature;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;

/** Writes decisions as JSON; for one thread. */
final class DecisionWriter {
    /** The fast writer also writes the shortest digits that are this float32 and no other. */
    private static final JsonFactory JSON =
            JsonFactory.builder().enable(StreamWriteFeature.USE_FAST_DOUBLE_WRITER).build();

    private final ByteArrayOutputStream buffer = new ByteArrayOutputStream(128);
    private final float reviewThreshold;

    DecisionWriter(float reviewThreshold) {
        this.reviewThreshold = reviewThreshold;
    }

    byte[] write(byte[] transactionId, float score) {
        buffer.reset();
        try (JsonGenerator json = JSON.createGenerator(buffer)) {
            json.writeStartObject();
            json.writeFieldName("transaction_id");
            json.writeUTF8String(transactionId, 0, transactionId.length);
            json.writeNumberField("score", score);
            json.writeStringField("outcome", score >= reviewThreshold ? "REVIEW" : "APPROVE");
            json.writeEndObject();
        } catch (IOException exception) {
            throw new UncheckedIOException(exception);
        }
        return buffer.toByteArray();
    }
}
