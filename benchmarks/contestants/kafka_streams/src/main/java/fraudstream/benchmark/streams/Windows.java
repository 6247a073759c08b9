package fraudstream.benchmark.streams;

/**
 * Totals over the windows of 1, 7 and 30 days that end with a payment, itself included.
 *
 * <p>A window is (t - w, t]: a record exactly w old is out, one of the same millisecond is in.
 * One object is used for payment after payment, by one thread.
 */
final class Windows {
    static final long DAY_MS = 86_400_000L;
    static final int COUNT = 3;
    static final long LONGEST_MS = 30 * DAY_MS;
    private static final long[] LENGTHS_MS = {DAY_MS, 7 * DAY_MS, LONGEST_MS};

    private final int[] counts = new int[COUNT];
    private final long[] sumsMinor = new long[COUNT];

    /** Starts over with the payment itself. */
    void start(long amountMinor) {
        for (int window = 0; window < COUNT; window++) {
            counts[window] = 1;
            sumsMinor[window] = amountMinor;
        }
    }

    /** Adds a record that is so much older than the payment. */
    void add(long ageMs, long amountMinor) {
        for (int window = COUNT - 1; window >= 0 && ageMs < LENGTHS_MS[window]; window--) {
            counts[window]++;
            sumsMinor[window] += amountMinor;
        }
    }

    int count(int window) {
        return counts[window];
    }

    /** The mean amount in major units. */
    float mean(int window) {
        return (float) (sumsMinor[window] / (100.0 * counts[window]));
    }
}
