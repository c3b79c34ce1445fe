"""The only place that knows where runs, records, edits, statistics and caches lie, and how files are written whole.

`layout` has the folders, file names and schema versions; `files` writes a file or a folder whole or not at all.
"""

from formless.store.files import (
    file_sha256,
    new_folder,
    refuse_existing,
    remove_file,
    remove_folder,
    sync_folder,
    write_tensors,
    write_text,
)
from formless.store.layout import (
    EDIT_SCHEMA,
    PLAN_SCHEMA,
    RECORD_SCHEMA,
    RESULT_SCHEMA,
    STATISTICS_SCHEMA,
    CheckpointsFolder,
    DemoFolder,
    EditFolder,
    ExperimentFolder,
    RunFolder,
    StatisticsFolder,
    bundled_model_folder,
    cache_folder,
    cached_files_path,
    is_older,
    original_record_path,
    original_records_folder,
    refuse_newer,
)

__all__ = [
    "EDIT_SCHEMA",
    "PLAN_SCHEMA",
    "RECORD_SCHEMA",
    "RESULT_SCHEMA",
    "STATISTICS_SCHEMA",
    "CheckpointsFolder",
    "DemoFolder",
    "EditFolder",
    "ExperimentFolder",
    "RunFolder",
    "StatisticsFolder",
    "bundled_model_folder",
    "cache_folder",
    "cached_files_path",
    "file_sha256",
    "is_older",
    "new_folder",
    "original_record_path",
    "original_records_folder",
    "refuse_existing",
    "refuse_newer",
    "remove_file",
    "remove_folder",
    "sync_folder",
    "write_tensors",
    "write_text",
]
