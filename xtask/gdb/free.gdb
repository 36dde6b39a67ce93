# SPDX-License-Identifier: MIT OR Apache-2.0
# The free that the report names: who freed, and what; then on to the report, as if nobody had looked.
there
printf "object freed: %#lx\n", $rdi
backtrace 4
report
printf "address reported: %#lx\n", $rdi
delete
continue
