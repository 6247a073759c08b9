package fraudstream.benchmark.streams;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;

/** Scores a file of vectors with the scorer of the stream, so that the scores can be compared. */
final class VectorFile {
    private VectorFile() {}

    /** Reads rows of little-endian float32 and writes a little-endian float32 for each of them. */
    static void score(Path model, Path vectors, Path out) throws IOException {
        Scorer scorer = new Scorer(model);
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(vectors));
        FloatBuffer rows = bytes.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
        int count = rows.remaining() / ScoringRequest.FEATURES;
        ByteBuffer scores = ByteBuffer.allocate(count * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        float[] features = new float[ScoringRequest.FEATURES];
        for (int row = 0; row < count; row++) {
            rows.get(features);
            scores.putFloat(scorer.score(features, 1)[0][0]);
        }
        Files.write(out, scores.array());
    }
}
