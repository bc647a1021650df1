#!/bin/sh
# A RUSTC_WORKSPACE_WRAPPER: compiles the workspace's crates with their planted defects, and leaves
# those of others, which cargo does not send here, as they are.
exec "$@" --cfg quorate_mutants
