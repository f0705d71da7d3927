"""The migration's logic. `zddm_flags/_sync` is generated from `zddm_flags/_async`."""
