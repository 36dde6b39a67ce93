# SPDX-License-Identifier: MIT OR Apache-2.0
# The free that the report names: who freed, and what.
there
printf "object freed: %#lx\n", $rdi
backtrace 8
kill
