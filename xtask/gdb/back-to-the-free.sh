#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# From the report of a use-after-free back to the free that it names. Going back is starting anew and stopping sooner: the run
# is the same. FINDING: its folder.
set -eu
scripts=$(dirname "$0")
[ $# -eq 1 ] || { echo "usage: $0 FINDING" >&2; exit 64; }
cargo xtask repro "$1" --gdb --gdb-script "$scripts/report.gdb"
cargo xtask repro "$1" --gdb --at free --gdb-script "$scripts/free.gdb"
