"""What is read by a pattern, or cut up by hand, and of which format it is: none of it is contourd's own prose."""

from __future__ import annotations

from collections.abc import Mapping

# An expression is cut off after so many characters.
LONGEST = 90
# Format -> the expressions that read it, as ``ast.unparse`` writes them.
FORMATS: Mapping[str, frozenset[str]] = {
    "what the kernel says of processes and of this host: proc(5), hostname(7)": frozenset(
        {
            "stat.rpartition(')')",
            "stat.rpartition(')')[2].split()",
        }
    ),
    "the name of an XML element, with its namespace before it": frozenset({"node.tag.rpartition('}')"}),
    "a peer's, a site's or a system's address: URL, host, database, path of HTTP": frozenset(
        {
            "address.partition('%')",
            "re.compile('(?P<at>\\\\d{8}T\\\\d{12})Z-(?P<kind>[js])(?P<id>\\\\d{1,18})')",
            "re.compile('[0-9a-f]{10}|[0-9a-f]{32}')",
            "re.fullmatch('[1-9][0-9]{0,3}', one['route'])",
            "origin.partition('://')",
            "place.partition('?')",
            "re.compile('(?P<ae_title>[^@]+)@(?P<host>\\\\[[^\\\\]]+\\\\]|[^:\\\\[\\\\]]+):(?P<port>\\\\d+)')",
            "re.sub('[^A-Za-z0-9_.-]', '_', match['ae_title'])",
            "request.headers.get('content-type', '').startswith('application/x-www-form-urlencoded')",
            "scope['path'].startswith('/static/')",
            "self.address.startswith('@')",
            "settings.database_url.startswith(PREFIX)",
            "settings.database_url.startswith(backups.PREFIX)",
            "endpoint.startswith(('http://', 'https://'))",
            "settings.endpoint.startswith('http://')",
            "socket.gethostname().partition('.')",
            "text.startswith(('http://', 'https://'))",
            "url.removeprefix(PREFIX)",
            "database_url.removeprefix(prefix)",
            "url.startswith(PREFIX)",
            "database_url.startswith(prefix)",
            "rest.rpartition('@')",
            "url.partition('://')",
            "user.partition(':')",
        }
    ),
    "HTTP as an external server answers it": frozenset(
        {
            "line.endswith(b'\\n')",
            "line.split(None, 2)",
            "words[0].startswith(PROTOCOL)",
        }
    ),
    "what a person types on the command line or in a file: settings, recipes, tables, names": frozenset(
        {
            "cell.lstrip().startswith(FORMULA)",
            "cell.startswith(('\\t', '\\r', '\\n'))",
            "first.removeprefix('#')",
            "key.rpartition('.')",
            "key.split('.')",
            "line.split(',', 1)",
            "name.split()",
            're.compile(\'(?P<head>(?P<key>[a-z_]+) = )(?P<value>"[^"]*"|\\\\[[^\\\\]]*\\\\]|[^\\\\s#]+)(?P<spac',
            "re.compile('\\\\[\\\\[?(?P<name>[a-z_.]+)\\\\]\\\\]?\\\\s*')",
            "re.compile(pattern)",
            "re.compile(text)",
            "re.fullmatch('(\\\\d{1,6})\\\\s*(s|min|m|h|d|w)', text)",
            "re.search(k, kernel[:LONGEST_KERNEL], re.IGNORECASE)",
            "re.search(pattern, text, re.IGNORECASE)",
            "self.at.split(':')",
            "subcommand.split()",
            "text.partition('=')",
            "text.split(',')",
        }
    ),
    "what other software says: pydantic, a decoder, torch, OpenVINO, a database, Python": frozenset(
        {
            "(ran.stderr.strip().splitlines() or [''])[-1].partition(':')",
            "__file__.rsplit(os.sep, 2)",
            "error.errors()[0]['msg'].removeprefix('Value error, ')",
            "item['msg'].removeprefix('Value error, ')",
            "key.startswith(network.organ_weights)",
            "openvino.__version__.split('-')",
            "record.name.partition('.')",
            "str(error).partition('\\n')",
            "str(error).strip().split('\\n', 1)",
            "str(message).strip().split('\\n', 1)",
        }
    ),
    "DICOM: values, UIDs, titles, elements, messages, files": frozenset(
        {
            "''.join((c if c.isalnum() else ' ' for c in text)).split()",
            "group.split('^')",
            "name.split('=')",
            "''.join((c if _is_printable(c) and c != '\\\\' else ' ' for c in text)).split()",
            "b'AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US'.split()",
            "b'OB OD OF OL OV OW SQ SV UC UN UR UT UV'.split()",
            "content.startswith(META)",
            "content.startswith(META, at)",
            "content.startswith(PREFIX)",
            "content[PREAMBLE_BYTES:].startswith(PREFIX + bytes(4))",
            "element.value.split(b'\\\\')",
            "element.value.strip(b' \\x00').split(b'\\\\')",
            "found.get(tag, b'').removesuffix(b'\\x00')",
            "found[element].removesuffix(b'\\x00')",
            "i.patient_id.startswith(PATIENT_ID_PREFIX)",
            "instance.sop_instance_uid.split('.')",
            "kind.endswith('_RQ')",
            "message.msg_type.startswith('C-')",
            "operation.startswith('C-')",
            "raw.decode('latin_1').split('\\\\')",
            "raw.endswith(b'\\x00')",
            "raw.rstrip(b' ').endswith(b'\\x00')",
            "re.compile('[0-9]+(\\\\.[0-9]+)*')",
            "re.compile('[0-9]+(\\\\.[0-9]+)+')",
            "re.compile('\\\\d+(?:\\\\.\\\\d+){4,}')",
            "re.compile('\\\\d+(\\\\.\\\\d+)?')",
            "re.compile(b' *[+-]?\\\\d{1,9} *|')",
            "re.compile(b' *|' + NUMBER + b'(?:\\\\\\\\' + NUMBER + b'){0,5}')",
            "re.compile(b'(?:..)?', re.DOTALL)",
            "re.compile(b'(?:ISO_IR (?:6|100|101|109|110|144|192) ?)?')",
            "re.compile(b'[ -\\\\[\\\\]-~]+')",
            "re.compile(b'[0-9.]{0,64}\\\\0?')",
            "re.compile(b'[0-9]+(\\\\.[0-9]+)*')",
            "re.compile(b'[012](\\\\.(0|[1-9][0-9]*))+')",
            "re.compile(b'[012](\\\\.[0-9]+)+')",
            "re.compile(b'[\\\\x20-\\\\x7e]{0,1024}')",
            "re.fullmatch('(\\\\d{1,3})([DWMY])', str(header.get('PatientAge', '') or '').strip())",
            "re.fullmatch('(\\\\d{1,3})([DWMY])', text, re.ASCII | re.IGNORECASE)",
            "re.fullmatch('(\\\\d{2})(?:(:?)(\\\\d{2})(?:\\\\2(\\\\d{2})(?:[.,](\\\\d*))?)?)?', text, re.ASCII)",
            "re.fullmatch('(\\\\d{4})([.-]?)(\\\\d{2})\\\\2(\\\\d{2})', text, re.ASCII)",
            "re.fullmatch('ISO2022IR(\\\\d+)', plain)",
            "re.fullmatch('ISO8859(\\\\d{1,2})', plain)",
            "re.fullmatch('ISOIR(\\\\d+)', plain)",
            "re.fullmatch('[+-]?(\\\\d+([.,]\\\\d*)?|[.,]\\\\d+)([eE][+-]?\\\\d{1,3})?', text, re.ASCII)",
            "re.fullmatch('[+-]?[0-9]{1,10}', text)",
            "re.split('[\\\\^=\\\\s]+', text)",
            "re.sub('[ _-]', '', written.upper())",
            "re.sub('|'.join((f'(?<!\\\\w){re.escape(w)}(?!\\\\w)' for w in words)), LEFT_OUT, text, flags=",
            "text.split('=')",
        }
    ),
    "names of structures, models and their folders": frozenset(
        {
            "re.compile('[A-Za-z0-9_+~^-]{1,16}')",
            "re.compile('[SI][AP][LR]')",
            "re.compile('fold_(all|\\\\d{1,2})')",
            "re.compile('nnUNetTrainer(?:_?(?:\\\\d+ep(?:och)?s?|[Nn]oMirroring|onlyMirror01|DA5(?:ord0|S",
            "re.fullmatch('all|\\\\d{1,2}', fold)",
            "base.startswith(joined)",
            "joined.startswith(base)",
            "model.rstrip('/').rpartition('/')",
            "name.endswith('.npz')",
            "name.partition('.')",
            "re.compile('(?:\\\\+|plus|exp|\\\\b)\\\\s*\\\\d+(?:[.,]\\\\d+)?\\\\s*(?:mm|cm)\\\\b|\\\\+\\\\s*\\\\d|\\\\b\\\\d+(?",
            "re.compile('[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*')",
            "re.compile('[A-Za-z0-9_+~^-]{1,64}')",
            "re.compile('[^0-9]')",
            "re.compile('^(?:z+|x+|_+|zz?z?)[_ .-]+|^\\\\W*(?:not|non?)[_ -]', re.IGNORECASE)",
            "re.compile(f'(?i:(?<![a-z0-9])(?:{words}|{lobes})(?![a-z0-9]))|(?<=[a-z])(?:{words})$')",
            "re.compile(re.escape(asked) + VERSION_AND_HASH)",
            "re.findall('[a-z0-9]+', _plain(parted))",
            "re.fullmatch(re.escape(name) + VERSION_AND_HASH, asked)",
            "re.search('[+&/]|(?<=[a-z])-(?=ptv|ctv|gtv)', plain)",
            "re.sub('(?<=[a-z])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z]$)', ' ', spelling)",
            "re.sub('[^a-z0-9]', '', LEFT.sub('', RIGHT.sub('', name)).casefold())",
            "word.startswith(_naming().targets)",
            "words[0].removeprefix(side)",
            "words[0].removesuffix(side)",
        }
    ),
    "Markdown of a model's card": frozenset(
        {
            "re.compile('!?\\\\[([^\\\\]]*)\\\\]\\\\([^)\\\\s]*\\\\)')",
            "read_regular(file).decode(errors='replace').expandtabs().split('\\n')",
        }
    ),
    "keys of fixed words and numbers: of an alert, an action, a subject, a setting, a file": frozenset(
        {
            "AuditRow.action.startswith(ASSOCIATION)",
            "key.split('/')",
            "line.action.startswith(wanted.action)",
            "one.what.partition('.')",
            "path.name.rpartition('-')",
            "path.stem.partition('-')",
            "PurePosixPath(relative).name.rpartition('-')",
            "place.name.startswith(f'{WAITING}/')",
            "row.action.removeprefix(ASSOCIATION)",
            "row.subject.partition(' ')",
            "value.split(',')",
        }
    ),
    "lines, which are printed one by one": frozenset(
        {
            "f'contourd: {error}'.split('\\n')",
            "text.split('\\n')",
            "traceback_text(ei[1]).split('\\n')",
        }
    ),
}
