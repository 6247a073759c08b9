package fraudstream.benchmark.streams;

import java.io.IOException;
import java.nio.file.Path;

/** The command line: {@code score MODEL VECTORS OUT}, or {@code run}. */
public final class Main {
    private static final int USAGE_ERROR = 2;

    private Main() {}

    /**
     * Does what the arguments say.
     *
     * @param arguments the command and what it takes
     * @throws IOException a file cannot be read or written
     * @throws InterruptedException somebody interrupted the wait for the end
     */
    public static void main(String[] arguments) throws IOException, InterruptedException {
        String command = arguments.length == 0 ? "" : arguments[0];
        if (command.equals("score") && arguments.length == 4) {
            VectorFile.score(Path.of(arguments[1]), Path.of(arguments[2]), Path.of(arguments[3]));
        } else if (command.equals("run") && arguments.length == 1) {
            System.exit(Contestant.run(Settings.fromEnvironment(System.getenv())) ? 0 : 1);
        } else {
            System.err.println("usage: score MODEL VECTORS OUT | run");
            System.exit(USAGE_ERROR);
        }
    }
}
