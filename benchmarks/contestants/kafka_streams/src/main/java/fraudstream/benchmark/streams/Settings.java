package fraudstream.benchmark.streams;

import java.nio.file.Path;
import java.util.Map;

/**
 * What the benchmark says about one run.
 *
 * @param bootstrapServers the broker's address
 * @param group the application's id, and so its consumer group
 * @param input the topic of payments, keyed by card
 * @param output the topic of decisions, keyed by card
 * @param model the XGBoost model
 * @param stateDir an empty folder of this run's own
 * @param reviewThreshold the score from which a payment is to be reviewed
 * @param threads how many stream threads
 * @param commitIntervalMs how long a transaction may be, milliseconds
 * @param scoreRows how many payments are scored in one call at most; 1 is row by row
 */
record Settings(
        String bootstrapServers,
        String group,
        String input,
        String output,
        Path model,
        Path stateDir,
        float reviewThreshold,
        int threads,
        long commitIntervalMs,
        int scoreRows) {

    /** Reads {@code BENCH_*}. */
    static Settings fromEnvironment(Map<String, String> environment) {
        return new Settings(
                required(environment, "BENCH_BOOTSTRAP"),
                required(environment, "BENCH_GROUP"),
                required(environment, "BENCH_INPUT"),
                required(environment, "BENCH_OUTPUT"),
                Path.of(required(environment, "BENCH_MODEL")),
                Path.of(required(environment, "BENCH_STATE_DIR")),
                Float.parseFloat(environment.getOrDefault("BENCH_REVIEW_THRESHOLD", "0.3")),
                Integer.parseInt(environment.getOrDefault("BENCH_THREADS", "2")),
                Long.parseLong(environment.getOrDefault("BENCH_COMMIT_INTERVAL_MS", "100")),
                Integer.parseInt(environment.getOrDefault("BENCH_SCORE_ROWS", "1")));
    }

    private static String required(Map<String, String> environment, String name) {
        String value = environment.get(name);
        if (value == null || value.isEmpty()) {
            throw new IllegalArgumentException(name + " is not set");
        }
        return value;
    }
}
