"""A readable start: hides the notices of TensorFlow and its companions."""

import contextlib
import logging
import os
import re
import threading
import warnings

from moco_tf import standard_error

# Printed as errors or plain lines, whatever the log level: at import a second
# registration of the CUDA plugins and the date tags of absl before its own
# start; at the first compilation XLA's own.
_NOTICES = re.compile(
    b"|".join(
        [
            rb"Unable to register cu\w+ factory",
            rb"computation_placer already registered",
            rb"All log messages before absl::InitializeLog",
            rb"oneDNN custom operations are on",
            rb"optimized to use available CPU instructions",
            rb"To enable the following instructions",
            rb"Could not find (cuda|TensorRT)",
            rb"Using TensorFlow backend",
            rb"Compiled cluster using XLA",
            rb"SetPriority unimplemented",
        ]
    )
)


def prepare(verbose=False):
    """Sets log levels and warning filters; call before TensorFlow's import.

    Errors stay visible. A level that the user has set in the environment
    (TF_CPP_MIN_LOG_LEVEL) is kept.

    Args:
      verbose: True leaves everything as it is.
    """
    if verbose:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"\s*TensorFlow Addons")
    warnings.filterwarnings("ignore", message=r"\s*Protobuf gencode")
    # On damaged metadata; the image is read or refused in any case.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def imports(verbose=False):
    """Captures what imports write to stderr; shows all but known notices.

    Everything is shown when the block raises.

    Args:
      verbose: True captures nothing.
    """
    if verbose:
        yield
        return
    failed = False
    with standard_error.capture(
        lambda line: failed or not _NOTICES.search(line)
    ):
        try:
            yield
        except Exception:
            failed = True
            raise


def start_xla(verbose=False):
    """Starts XLA, so that what it prints once can be captured here.

    It prints notices at its first compilation, and at the first use of each
    stream: as many streams are used as views are made at once later. Call it
    after the devices are chosen.

    Args:
      verbose: True captures nothing.
    """
    import tensorflow as tf  # here: `prepare` comes before it

    @tf.function(jit_compile=True, autograph=False)
    def count(last):  # long enough for all threads to be in it at once
        return tf.while_loop(lambda x: x < last, lambda x: (x + 1,), (0,))

    def run():
        with tf.device("CPU:0"):
            count(tf.constant(0))
            together.wait()
            count(tf.constant(10_000_000))

    count_of_all = 4 * (os.cpu_count() or 1)
    threads = [threading.Thread(target=run) for _ in range(count_of_all)]
    together = threading.Barrier(len(threads))
    with imports(verbose):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
