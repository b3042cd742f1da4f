"""Serves a GGUF model on 127.0.0.1 with llama.cpp's server from the PyPI package `xllamacpp`.

    python teacher_server.py MODEL.gguf [PORT [NAME]]
"""

import signal
import sys
import time

import xllamacpp

path = sys.argv[1]
port = int(sys.argv[2]) if len(sys.argv) > 2 else 18080
name = sys.argv[3] if len(sys.argv) > 3 else "smollm2-135m-instruct"

parameters = xllamacpp.CommonParams()
parameters.model.path = path
parameters.model_alias = {name}
parameters.hostnames = ["127.0.0.1"]
parameters.port = port
parameters.n_ctx = 8192
parameters.n_parallel = 2
parameters.cpuparams.n_threads = 2
parameters.cpuparams_batch.n_threads = 2
server = xllamacpp.Server(parameters)
print("listening on", server.listening_address, flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    time.sleep(1)
