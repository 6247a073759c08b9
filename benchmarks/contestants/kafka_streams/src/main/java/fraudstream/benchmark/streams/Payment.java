package fraudstream.benchmark.streams;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;

/**
 * A payment as it arrives.
 *
 * @param transactionId its id
 * @param timeMs when it was made, epoch milliseconds
 * @param terminalId where it was made
 * @param amountMinor its amount in minor units (cents)
 */
record Payment(String transactionId, long timeMs, String terminalId, long amountMinor) {
    private static final JsonFactory JSON = new JsonFactory();

    /** Reads a payment's JSON; anything but a payment ends the program. */
    static Payment parse(byte[] json) {
        String transactionId = null;
        String terminalId = null;
        long timeMs = Long.MIN_VALUE;
        long amountMinor = Long.MIN_VALUE;
        try (JsonParser parser = JSON.createParser(json)) {
            parser.nextToken();
            for (String name; (name = parser.nextFieldName()) != null; ) {
                JsonToken token = parser.nextToken();
                switch (name) {
                    case "transaction_id" -> transactionId = parser.getText();
                    case "terminal_id" -> terminalId = parser.getText();
                    case "event_time" -> timeMs = parser.getLongValue();
                    case "amount_minor" -> amountMinor = parser.getLongValue();
                    default -> {
                        if (token.isStructStart()) {
                            parser.skipChildren();
                        }
                    }
                }
            }
        } catch (IOException exception) {
            throw new UncheckedIOException(exception);
        }
        if (transactionId == null
                || terminalId == null
                || timeMs == Long.MIN_VALUE
                || amountMinor == Long.MIN_VALUE) {
            throw new IllegalArgumentException("a payment lacks a field");
        }
        return new Payment(transactionId, timeMs, terminalId, amountMinor);
    }
}
