"""The embedded Kafka and Valkey: real servers, from packages, on a machine without Docker.

    jars.py      the broker's class path and the Java runtime: downloaded once, checked by hash
    kafka.py     one Apache Kafka node (KRaft): its settings, its commands, when it is ready
    valkey.py    one Valkey: its command, when it is ready
    guard.py     the process that owns both servers and ends them when its parent is gone
    leash.py     the parent's end: starts the guard and speaks with it
    folder.py    the state folder: its lock, its record, its log files
    stack.py     both servers as one ``LocalStack``

        caller ──pipe──> guard ──┬─> broker
                                 └─> Valkey

The caller alone holds the pipe's write end, so the guard reads an end of file whenever the caller
is gone, however it went.
"""
