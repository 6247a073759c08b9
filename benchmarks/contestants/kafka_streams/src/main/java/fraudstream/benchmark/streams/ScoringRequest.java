package fraudstream.benchmark.streams;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/**
 * A payment on its way to its score: what is left to know of it, and the features so far.
 *
 * <pre>
 *   time (8) | features (12 x 4) | length of card id (2) | card id | length of id (2) | id
 * </pre>
 *
 * @param timeMs when the payment was made, epoch milliseconds
 * @param features the model's input; the terminal's part is 0 until its partition fills it in
 * @param cardId the card's id in UTF-8
 * @param transactionId the payment's id in UTF-8
 */
record ScoringRequest(long timeMs, float[] features, byte[] cardId, byte[] transactionId) {
    static final int FEATURES = 12;

    private static final int TERMINAL_COLUMN = FEATURES - Windows.COUNT;
    private static final int FIXED_BYTES = Long.BYTES + FEATURES * Float.BYTES + 2 * Short.BYTES;
    private static final int NIGHT_LAST_HOUR = 6;
    private static final long HOUR_MS = 3_600_000L;
    /** The first of January 1970 was a Thursday; 0 is Monday. */
    private static final int WEEKDAY_OF_EPOCH = 3;
    private static final int SATURDAY = 5;

    static ScoringRequest of(Payment payment, byte[] cardId, Windows card) {
        float[] features = new float[FEATURES];
        features[0] = (float) (payment.amountMinor() / 100.0);
        features[1] = isWeekend(payment.timeMs()) ? 1 : 0;
        features[2] = isNight(payment.timeMs()) ? 1 : 0;
        for (int window = 0; window < Windows.COUNT; window++) {
            features[3 + window] = card.count(window);
            features[3 + Windows.COUNT + window] = card.mean(window);
        }
        byte[] transactionId = payment.transactionId().getBytes(StandardCharsets.UTF_8);
        return new ScoringRequest(payment.timeMs(), features, cardId, transactionId);
    }

    /** Fills in the terminal's part. */
    void complete(Windows terminal) {
        for (int window = 0; window < Windows.COUNT; window++) {
            features[TERMINAL_COLUMN + window] = terminal.count(window);
        }
    }

    static Serde<ScoringRequest> serde() {
        return Serdes.serdeFrom(
                (topic, request) -> request.appendTo(new byte[0]),
                (topic, bytes) -> read(ByteBuffer.wrap(bytes)));
    }

    /** Makes an array of what is there already and this request. */
    byte[] appendTo(byte[] before) {
        int size = before.length + FIXED_BYTES + cardId.length + transactionId.length;
        ByteBuffer buffer = ByteBuffer.allocate(size).put(before).putLong(timeMs);
        for (float feature : features) {
            buffer.putFloat(feature);
        }
        buffer.putShort((short) cardId.length).put(cardId);
        return buffer.putShort((short) transactionId.length).put(transactionId).array();
    }

    /** Reads the next request. */
    static ScoringRequest read(ByteBuffer buffer) {
        long timeMs = buffer.getLong();
        float[] features = new float[FEATURES];
        for (int column = 0; column < FEATURES; column++) {
            features[column] = buffer.getFloat();
        }
        return new ScoringRequest(timeMs, features, readBytes(buffer), readBytes(buffer));
    }

    private static byte[] readBytes(ByteBuffer buffer) {
        byte[] bytes = new byte[Short.toUnsignedInt(buffer.getShort())];
        buffer.get(bytes);
        return bytes;
    }

    private static boolean isWeekend(long timeMs) {
        long day = Math.floorDiv(timeMs, Windows.DAY_MS);
        return Math.floorMod(day + WEEKDAY_OF_EPOCH, 7) >= SATURDAY;
    }

    private static boolean isNight(long timeMs) {
        return Math.floorMod(timeMs, Windows.DAY_MS) / HOUR_MS <= NIGHT_LAST_HOUR;
    }
}
