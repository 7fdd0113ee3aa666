"""A new interpreter: the fork server, or a process where forks are not safe. Its standard input is the socket."""

from __future__ import annotations

import os
import socket
import sys

from naflex_deploy.core.worker.fork_server import serve
from naflex_deploy.core.worker.process import apart, end_with, serve_requests

connection = socket.socket(fileno=os.dup(0))
nothing = os.open(os.devnull, os.O_RDONLY)
os.dup2(nothing, 0)
os.close(nothing)
match sys.argv[1:]:
    case ["server"]:
        serve(connection)
    case ["worker", memory, nice]:
        apart()
        end_with(os.getppid())
        serve_requests(connection, int(memory), int(nice))
