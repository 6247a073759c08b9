package fraudstream.benchmark.streams;

import java.nio.file.Path;
import ml.dmlc.xgboost4j.java.Booster;
import ml.dmlc.xgboost4j.java.XGBoost;
import ml.dmlc.xgboost4j.java.XGBoostError;

/**
 * The model.
 *
 * <p>Any number of threads may score with one object: XGBoost calls prediction in place thread-safe
 * as long as nobody changes the booster, and nobody does after the constructor.
 */
final class Scorer {
    private final Booster booster;

    /** Loads the model; {@code IllegalArgumentException} if it cannot be used. */
    Scorer(Path model) {
        try {
            booster = XGBoost.loadModel(model.toString());
            // The stream threads share the cores out among themselves.
            booster.setParam("nthread", 1);
        } catch (XGBoostError error) {
            throw new IllegalArgumentException("the model cannot be loaded", error);
        }
        // The booster configures itself at the first prediction, while it is this thread's own.
        score(new float[ScoringRequest.FEATURES], 1);
    }

    /** Scores rows that lie one after the other; NaN stands for a missing value. */
    float[][] score(float[] rows, int count) {
        try {
            return booster.inplace_predict(rows, count, ScoringRequest.FEATURES, Float.NaN);
        } catch (XGBoostError error) {
            throw new IllegalStateException("the model cannot score", error);
        }
    }
}
