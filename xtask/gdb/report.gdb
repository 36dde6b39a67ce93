# SPDX-License-Identifier: MIT OR Apache-2.0
# Where the report begins: who called, and the address that is reported.
report
printf "address reported: %#lx\n", $rdi
backtrace 8
kill
