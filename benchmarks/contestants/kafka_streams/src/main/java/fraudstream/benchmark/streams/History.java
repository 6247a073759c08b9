package fraudstream.benchmark.streams;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;

/**
 * The payments of one card or terminal, in order of event time, as the bytes a state store keeps.
 *
 * <pre>
 *   time of the first (8) | { ms after the first (4, unsigned) | amount, if kept (8) } ...
 * </pre>
 *
 * <p>Arrays are never changed once made, since the store's cache hands out the ones it holds.
 */
final class History {
    private static final VarHandle LONG =
            MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);
    private static final VarHandle INT =
            MethodHandles.byteArrayViewVarHandle(int[].class, ByteOrder.BIG_ENDIAN);
    private static final int HEAD = Long.BYTES;

    private final boolean keepsAmounts;
    private final int width;
    private final long keptMs;

    private History(boolean keepsAmounts, long latenessMs) {
        this.keepsAmounts = keepsAmounts;
        this.width = Integer.BYTES + (keepsAmounts ? Long.BYTES : 0);
        this.keptMs = Windows.LONGEST_MS + latenessMs;
    }

    /** Of a card, whose payments come from one partition and so in order. */
    static History ofCard() {
        return new History(true, 0);
    }

    /**
     * Of a terminal, whose payments come from all the cards' partitions and so not quite in order.
     *
     * <p>Records are kept a week longer than the longest window: the windows of a payment that
     * comes up to a week of event time late are complete.
     */
    static History ofTerminal() {
        return new History(false, 7 * Windows.DAY_MS);
    }

    /** Takes the totals of the windows that end with a payment that is not in the history yet. */
    void measure(byte[] history, long timeMs, long amountMinor, Windows totals) {
        totals.start(amountMinor);
        if (history == null) {
            return;
        }
        long firstMs = (long) LONG.get(history, 0);
        for (int at = history.length - width; at >= HEAD; at -= width) {
            long ageMs = timeMs - timeAt(history, at, firstMs);
            if (ageMs >= Windows.LONGEST_MS) {
                return;
            }
            if (ageMs >= 0) {
                totals.add(ageMs, amountAt(history, at));
            }
        }
    }

    /** Puts a payment in its place and forgets what is older than any window can ask for. */
    byte[] insert(byte[] history, long timeMs, long amountMinor) {
        if (history == null) {
            byte[] made = new byte[HEAD + width];
            LONG.set(made, 0, timeMs);
            write(made, HEAD, 0, amountMinor);
            return made;
        }
        long firstMs = (long) LONG.get(history, 0);
        int end = history.length;
        long newestMs = Math.max(timeMs, timeAt(history, end - width, firstMs));
        if (timeMs <= newestMs - keptMs) {
            return history;
        }
        int from = HEAD;
        while (from < end && timeAt(history, from, firstMs) <= newestMs - keptMs) {
            from += width;
        }
        int place = end;
        while (place > from && timeAt(history, place - width, firstMs) > timeMs) {
            place -= width;
        }
        long madeFirstMs = place == from ? timeMs : timeAt(history, from, firstMs);
        byte[] made = new byte[HEAD + (end - from) + width];
        LONG.set(made, 0, madeFirstMs);
        copy(history, from, place, made, HEAD, madeFirstMs - firstMs);
        int madePlace = HEAD + (place - from);
        write(made, madePlace, timeMs - madeFirstMs, amountMinor);
        copy(history, place, end, made, madePlace + width, madeFirstMs - firstMs);
        return made;
    }

    /** Copies records whose first one's time has moved. */
    private void copy(byte[] source, int from, int end, byte[] target, int to, long movedMs) {
        System.arraycopy(source, from, target, to, end - from);
        if (movedMs != 0) {
            for (int at = to; at < to + (end - from); at += width) {
                INT.set(target, at, (int) ((int) INT.get(target, at) - movedMs));
            }
        }
    }

    private void write(byte[] target, int at, long afterFirstMs, long amountMinor) {
        INT.set(target, at, (int) afterFirstMs);
        if (keepsAmounts) {
            LONG.set(target, at + Integer.BYTES, amountMinor);
        }
    }

    private long timeAt(byte[] history, int at, long firstMs) {
        return firstMs + Integer.toUnsignedLong((int) INT.get(history, at));
    }

    private long amountAt(byte[] history, int at) {
        return keepsAmounts ? (long) LONG.get(history, at + Integer.BYTES) : 0;
    }
}
