r"""Completion of command lines in bash and zsh (the command `completion`).

A script is made of the flags of the commands and the fields of the
configurations, as they are here: what it offers is text in it, so that a press
of the tab key starts no Python. bash takes it with

    source <(moco-tf completion bash)

and zsh with the same line and the other name, behind `compinit`. Both scripts
share functions that print words; the parts of the shells alone differ.
"""

import collections
import shlex

import moco_tf
from moco_tf import config as configs
from moco_tf import config_schema
from moco_tf.cli import flags, usage
from moco_tf.methods import table
from moco_tf.monitoring import loggers

SHELLS = ("bash", "zsh")
_PATH, _SOURCE = "@path", "@source"  # in the place of words: more is asked
_SOURCE_FIELDS = (
    *("data.source", "data.train", "data.test"),
    *("knn.bank", "knn.query"),
)


def script(shell, commands):
    """The text of a completion script.

    Args:
      shell: of SHELLS. commands: dict name -> flags.Command.

    Returns:
      str, a script that defines functions and registers one of them.
    """
    purposes = [f"{name}:{c.purpose}" for name, c in commands.items()]
    parts = [
        *_head(shell),
        *_function("commands", "prints NAME:PURPOSE", {"": purposes}),
        *_function("flags", "COMMAND", _flags(commands)),
        *_function("sections", "COMMAND METHOD", _sections(commands)),
        *_function("fields", "COMMAND", _fields(commands)),
        *_function("method", "CONFIGURATION", _methods()),
        *_function("values", "COMMAND --FLAG", _values(commands)),
        *_function("words", "COMMAND", _first_words(commands)),
        {"bash": _BASH, "zsh": _ZSH}[shell].strip(),
    ]
    return "\n".join(parts) + "\n"


def _head(shell):
    return [
        *(["#compdef moco-tf"] if shell == "zsh" else []),
        f"# Completion for {shell}, of moco-tf {moco_tf.__version__}: made by",
        f"# `moco-tf completion {shell}`, to be made again after an update.",
        "",
    ]


def _function(name, takes, cases):
    """The lines of a shell function that prints words for its argument.

    Args:
      name: of the function. takes: its argument, for the comment.
      cases: dict pattern -> list of words; "": whatever the argument is.
    """
    bodies = {
        pattern: f"printf '%s\\n' {shlex.join(words)}"
        for pattern, words in cases.items()
    }
    lines = [f"_moco_tf_{name}() {{ # {takes}", 'case "$1" in']
    lines += [f"{key or '*'}) {body} ;;" for key, body in bodies.items()]
    return [*lines, "esac", "}", ""]


def _grouped(words_of):
    """Pattern -> words, from key -> words: keys of the same words together."""
    groups = collections.defaultdict(list)
    for key, words in words_of.items():
        if words:
            groups[tuple(words)].append(_pattern(key))
    return {"|".join(keys): list(words) for words, keys in groups.items()}


def _pattern(key):
    """A key as a pattern of `case`; a star in front stays one."""
    if key.startswith("*"):
        return f"*{shlex.quote(key[1:])}"
    return shlex.quote(key)


def _flags(commands):
    """Command -> its flags, with = behind those that take a text."""
    return _grouped(
        {
            name: [
                *(
                    f"--{flag.name}" + ("" if flag.read is None else "=")
                    for flag in (*command.flags, *flags.COMMON)
                ),
                *(["--config."] if command.has("config") else []),
            ]
            for name, command in commands.items()
        }
    )


def _configured(commands):
    """(Command, method, its fields) of those that take a configuration.

    Of a command that pre-training's fields are of, once for each method.
    """
    for name, command in commands.items():
        if command.has("config"):
            is_task = name in config_schema.TABLES and name != "pretrain"
            for method in ("moco",) if is_task else table.METHODS:
                fields = usage.read_fields(name, command, method)
                yield name, "" if is_task else method, fields


def _sections(commands):
    """ "COMMAND METHOD" -> the starts of its fields; no method: of all."""
    sections = collections.defaultdict(list)
    for name, method, fields in _configured(commands):
        for field in fields:
            section, _, key = field.name.rpartition(".")
            start = f"--config.{section}." if section else f"--config.{key}="
            sections[f"{name} {method}"].append(start)
            sections[f"{name} "].append(start)
    return _grouped({k: list(dict.fromkeys(v)) for k, v in sections.items()})


def _fields(commands):
    """Command -> its fields as flags, of all methods."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for name, _, fields in _configured(commands):
        names[name] += [f"--config.{field.name}=" for field in fields]
    return _grouped({k: list(dict.fromkeys(v)) for k, v in names.items()})


def _methods():
    """Configuration -> its method."""
    return _grouped(
        {
            name: [method]
            for method, entry in table.METHODS.items()
            for name in entry.configs
        }
    )


def _values(commands):
    """ "COMMAND --FLAG" -> the texts that it takes."""
    by_flag: dict[str, dict] = collections.defaultdict(dict)
    for name, command in commands.items():
        for flag in (*command.flags, *flags.COMMON):
            by_flag[f"--{flag.name}"][name] = _words_of_flag(name, flag)
    for name, _, fields in _configured(commands):
        for field in fields:
            words = _words_of_field(field)
            by_flag[f"--config.{field.name}"][name] = words
    words_of = {}
    for flag, by_command in by_flag.items():
        kinds = list(by_command.values())
        if all(words == kinds[0] for words in kinds):
            words_of[f"* {flag}"] = kinds[0]
        else:
            for name, words in by_command.items():
                words_of[f"{name} {flag}"] = words
    return _grouped(words_of)


def _words_of_flag(command, flag):
    if flag.name == "config":
        return [*configs.names(command), _PATH]
    words = [*flag.choices]
    if flag.choices == flags.SOURCES:
        words.append(_SOURCE)
    return [*words, _PATH] if flag.takes_path else words


def _words_of_field(described):
    """The texts that a field takes, as far as they can be listed."""
    if described.name in _SOURCE_FIELDS:
        return [*flags.SOURCES, _SOURCE]
    if described.name == "log.listeners":
        return [*loggers.BUILT_IN]
    if described.field.kind is bool:
        return ["true", "false"]
    return [*(described.field.names or ())]


def _first_words(commands):
    """Command -> the words that it takes without dashes."""
    return _grouped(
        {
            name: next(f for f in c.flags if f.name == c.word).choices
            for name, c in commands.items()
            if c.word
        }
    )


_BASH = r"""
_moco_tf_paths() { # -f, or -d: folders alone; PREFIX; typed
    local path typed=${3/#\~\//$HOME/}
    compgen "$1" -- "$typed" | while IFS= read -r path; do
        if [[ -d $path ]]; then path=$path/; fi
        printf -v path %q "$path"
        if [[ $typed != "$3" ]]; then path=${path/#"$HOME"/\~}; fi
        printf '%s\n' "$2$path"
    done
}

_moco_tf_value() { # COMMAND; --FLAG; PREFIX of what is printed; typed
    local word
    for word in $(_moco_tf_values "$1 $2"); do
        case $word in
        @path) _moco_tf_paths -f "$3" "$4" ;;
        @source)
            case $4 in
            folder:* | prepared:*)
                _moco_tf_paths -d "$3${4%%:*}:" "${4#*:}" ;;
            list:*) _moco_tf_paths -f "$3list:" "${4#*:}" ;;
            esac ;;
        *) printf '%s\n' "$3$word" ;;
        esac
    done
}

_moco_tf_reply() { # the words, a line each; typed
    local word mark behind=""
    # bash puts a reply behind the last of its word breaks.
    for mark in = :; do
        if [[ $COMP_WORDBREAKS == *"$mark"* && $2 == *"$mark"* ]]; then
            word=${2%"$mark"*}$mark
            if ((${#word} > ${#behind})); then behind=$word; fi
        fi
    done
    while IFS= read -r word; do
        if [[ -z $word || $word != "$2"* ]]; then continue; fi
        if [[ $word != *[=.:/] ]]; then word="$word "; fi
        COMPREPLY+=("${word#"$behind"}")
    done <<<"$1"
}

_moco_tf() {
    local line=${COMP_LINE:0:COMP_POINT} typed method="" offered="" word
    local -a words
    typed=${line##*[[:space:]]}
    read -ra words <<<"${line%"$typed"}"
    local count=${#words[@]} command=${words[1]:-} before
    before=${words[count - 1]}
    COMPREPLY=()
    if ((count < 2)); then
        offered=$(_moco_tf_commands | cut -d: -f1)
        _moco_tf_reply "$offered"$'\n--help\n--version' "$typed"
        return
    fi
    for word in "${words[@]}"; do
        if [[ $word == --config=* ]]; then
            method=$(_moco_tf_method "${word#*=}")
        fi
    done
    case $typed in
    --*=*)
        word=${typed%%=*}
        offered=$(_moco_tf_value "$command" "$word" "$word=" "${typed#*=}") ;;
    --config.*.*) offered=$(_moco_tf_fields "$command") ;;
    --config.*) offered=$(_moco_tf_sections "$command $method") ;;
    -*) offered=$(_moco_tf_flags "$command") ;;
    *)
        if ((count == 2)); then
            offered=$(_moco_tf_words "$command")
        elif [[ $before == --* && $before != *=* ]]; then
            offered=$(_moco_tf_value "$command" "$before" "" "$typed")
        fi
        if [[ -z $offered && -z $typed ]]; then
            offered=$(_moco_tf_flags "$command")
        fi ;;
    esac
    _moco_tf_reply "$offered" "$typed"
}
complete -o nospace -F _moco_tf moco-tf
"""

_ZSH = r"""
_moco_tf_value() { # COMMAND; --FLAG; typed
    local word
    for word in $(_moco_tf_values "$1 $2"); do
        case $word in
        @path) _files ;;
        @source)
            case $3 in
            folder:*|prepared:*) compset -P '*:'; _files -/ ;;
            list:*) compset -P '*:'; _files ;;
            esac ;;
        *:) compadd -S '' -- $word ;;
        *) compadd -- $word ;;
        esac
    done
}

_moco_tf_offer() { # words; what is behind = or . is typed on
    local -a open=(${(M)@:#*[=.]}) closed=(${@:#*[=.]})
    (( $#open )) && compadd -S '' -- $open
    (( $#closed )) && compadd -- $closed
}

_moco_tf() {
    local command=$words[2] typed=$words[CURRENT] method="" word
    local before=$words[CURRENT-1]
    local -a offered
    if (( CURRENT == 2 )); then
        offered=("${(@f)$(_moco_tf_commands)}")
        _describe command offered
        return
    fi
    for word in $words[3,CURRENT-1]; do
        [[ $word == --config=* ]] && method=$(_moco_tf_method "${word#*=}")
    done
    case $typed in
    --*=*)
        compset -P '*='
        _moco_tf_value "$command" "${typed%%=*}" "${typed#*=}" ;;
    --config.*.*) _moco_tf_offer $(_moco_tf_fields "$command") ;;
    --config.*) _moco_tf_offer $(_moco_tf_sections "$command $method") ;;
    -*) _moco_tf_offer $(_moco_tf_flags "$command") ;;
    *)
        if (( CURRENT == 3 )); then
            offered=($(_moco_tf_words "$command"))
        elif [[ $before == --* && $before != *=* ]]; then
            offered=($(_moco_tf_values "$command $before"))
        fi
        if (( CURRENT > 3 && $#offered )); then
            _moco_tf_value "$command" "$before" "$typed"
        elif (( $#offered )); then
            compadd -- $offered
        elif [[ -z $typed ]]; then
            _moco_tf_offer $(_moco_tf_flags "$command")
        fi ;;
    esac
}
# In a folder of fpath it is a file _moco-tf, which is run as the function.
if [[ ${funcstack[1]} == _moco-tf ]]; then
    _moco_tf "$@"
else
    compdef _moco_tf moco-tf
fi
"""
