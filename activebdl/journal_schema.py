"""The tables of a journal, and how those of earlier versions become them."""

from pathlib import Path

SCHEMA_VERSION = 4

_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE requests (       -- round r asks for what is labelled in round r, round -1 for what is held out for
                              -- validation; attempt 1, 2, ... replaces abstentions
    round INTEGER NOT NULL, attempt INTEGER NOT NULL, seconds REAL NOT NULL,
    samples INTEGER,          -- items times draws that were looked at to choose; NULL where nobody counted
    taken_ms INTEGER,         -- when every item had an answer and the run took them; NULL until then
    PRIMARY KEY (round, attempt)) WITHOUT ROWID;

CREATE TABLE asked (          -- the primary key says: no item is asked for twice
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL, attempt INTEGER NOT NULL, position INTEGER NOT NULL, score REAL,
    prediction TEXT,          -- what the model thought of it, for an oracle that shows it
    FOREIGN KEY (round, attempt) REFERENCES requests);

CREATE TABLE rounds (
    round INTEGER PRIMARY KEY, n_labels INTEGER NOT NULL, results TEXT NOT NULL, written_ms INTEGER NOT NULL);
"""

_ANNOTATIONS = """
CREATE TABLE annotations (    -- what annotators said of items, in the order in which it came; nothing is overwritten
    number INTEGER PRIMARY KEY,
    id INTEGER NOT NULL REFERENCES asked, annotator TEXT NOT NULL, revision INTEGER NOT NULL,
    role TEXT NOT NULL,       -- answer, vote, withdrawn, correction: see activebdl.annotations
    label,                    -- an integer, or a number, or NULL by one who abstains
    cost REAL NOT NULL, seconds REAL NOT NULL, written_ms INTEGER NOT NULL,
    round INTEGER, attempt INTEGER,    -- the request with which the run took it; NULL until then
    UNIQUE (id, annotator, revision));
"""

_FROM_2 = "ALTER TABLE requests ADD COLUMN samples INTEGER;"

# A run went by the first answer to an item. Others were kept, as votes are now.
_FROM_3 = f"""
ALTER TABLE requests ADD COLUMN taken_ms INTEGER;
ALTER TABLE asked ADD COLUMN prediction TEXT;
ALTER TABLE annotations RENAME TO old;
{_ANNOTATIONS}
INSERT INTO annotations SELECT
    NULL, id, annotator, revision,
    CASE row_number() OVER (PARTITION BY id ORDER BY written_ms, annotator, revision)
        WHEN 1 THEN 'answer' ELSE 'vote' END,
    label, cost, seconds, written_ms, NULL, NULL FROM old ORDER BY written_ms, annotator, revision;
UPDATE requests SET taken_ms = 0 WHERE NOT EXISTS (
    SELECT 1 FROM asked WHERE asked.round = requests.round AND asked.attempt = requests.attempt
    AND id NOT IN (SELECT id FROM old));
UPDATE annotations SET (round, attempt) = (SELECT round, attempt FROM asked WHERE asked.id = annotations.id)
    WHERE id IN (SELECT id FROM asked JOIN requests USING (round, attempt) WHERE taken_ms IS NOT NULL);
DROP TABLE old;
"""

# Labels could not be missing, and -1 was one who abstained.
_FROM_1 = "UPDATE annotations SET label = nullif(label, -1);"


def upgrade(version: int) -> str:
    """What makes a journal of today out of one of that version, in one transaction; of an empty file if it is 0."""
    steps = {0: (_SCHEMA, _ANNOTATIONS), 1: (_FROM_2, _FROM_3, _FROM_1), 2: (_FROM_2, _FROM_3), 3: (_FROM_3,)}
    return f"BEGIN IMMEDIATE; {''.join(steps[version])} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"


def newer(path: Path | None, version: int) -> str:
    """That a journal is of that version, which is above ours."""
    return (
        f"The journal '{path}' was written by a newer activebdl (schema {version}, this one knows {SCHEMA_VERSION}); "
        "update activebdl."
    )
