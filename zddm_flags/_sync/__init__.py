# Generated from zddm_flags/_async/__init__.py by `make generate`. Do not edit.
"""The migration's logic. `zddm_flags/_sync` is generated from `zddm_flags/_async`."""
