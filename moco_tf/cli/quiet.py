"""A readable start: hides the notices of TensorFlow and its companions."""

import contextlib
import logging
import os
import re
import sys
import threading
import warnings

from moco_tf import cores, standard_error

# Printed as errors or plain lines, whatever the log level: at import a second
# registration of the CUDA plugins and the date tags of absl before its own
# start; when devices are looked for, that there is no driver; at the first
# compilation XLA's own.
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
            rb"failed call to cuInit: .*UNKNOWN ERROR \(303\)",  # no libcuda
            rb"oneDNN supports DT_\w+ only on platforms",
        ]
    )
)


class _NewWarnings(logging.Filter):
    """Lets a sentence pass once: every epoch meets the same bad images."""

    def __init__(self):
        """Remembers the sentences of one handler."""
        super().__init__()
        self._said = set()

    def filter(self, record):
        text = record.getMessage()
        is_new = text not in self._said
        self._said.add(text)
        return is_new


class _StandardError(logging.StreamHandler):
    """Writes a warning in the form of the other warnings of a run."""

    def __init__(self):
        """Writes nothing yet."""
        super().__init__()
        self.addFilter(_NewWarnings())

    def format(self, record):
        return f"{record.levelname.capitalize()}: {record.getMessage()}"

    def emit(self, record):
        self.stream = sys.stderr  # which may have been replaced since
        super().emit(record)


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
    # Text that a browser will draw, with a font of its own.
    warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
    _quiet_tensorflow()
    # The package's own warnings; without a handler they have a logger's name
    # in front, and none on their way says what was said before.
    own = logging.getLogger("absl")
    own.handlers = [_StandardError()]
    own.propagate = False


def _quiet_tensorflow():
    """Lets TensorFlow's logger write errors alone.

    In an interactive Python its import sets the level INFO, so this comes
    before and after it.
    """
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
            # Looked for at the first question, with notices of their own.
            if tensorflow := sys.modules.get("tensorflow"):
                tensorflow.config.list_physical_devices()
                _quiet_tensorflow()
        except Exception:
            failed = True
            raise


def start_xla(verbose=False, cluster=None):
    """Starts XLA and oneDNN, so that what they print once is captured here.

    XLA prints notices at its first compilation, and at the first use of each
    stream: as many streams are used as views are made at once later. oneDNN
    prints one at the first transposition of bytes, in the lane current. Call
    it after the devices are chosen.

    Args:
      verbose: True captures nothing.
      cluster: Cluster of the run's workers; None: a process on its own.
    """
    import tensorflow as tf  # here: `prepare` comes before it

    @tf.function(jit_compile=True, autograph=False)
    def count(last):  # long enough for all threads to be in it at once
        return tf.while_loop(lambda x: x < last, lambda x: (x + 1,), (0,))

    @tf.function(autograph=False)
    def turn(image):
        return tf.transpose(image, [2, 0, 1])

    def run():
        try:
            together.wait()  # for one that cannot be started
            with tf.device("CPU:0"):
                turn(tf.zeros([1, 1, 3], tf.uint8))
                count(tf.constant(0))
                together.wait()
                count(tf.constant(10_000_000))
        except threading.BrokenBarrierError:
            pass  # what another one raised is shown
        except BaseException:
            together.abort()
            raise

    of_host = cluster.local()[1] if cluster else 1
    together = threading.Barrier(4 * cores.count(of_host))
    threads = [
        threading.Thread(target=run, daemon=True)
        for _ in range(together.parties)
    ]
    with imports(verbose):
        started: list[threading.Thread] = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
            for thread in threads:
                thread.join()
        except RuntimeError as error:
            raise OSError(
                f"A process must be able to start {len(threads)} threads here, "
                f"and more later. Received {error} after {len(started)}. Raise "
                "the limit of processes (`ulimit -u`; of a container, "
                "`--pids-limit`), or end other processes of this user."
            ) from error
        finally:
            together.abort()  # who waits would wait, and the process, for ever
            for thread in started:
                thread.join()
