package main

import _ "github.com/idloc/idloc/internal/pipe"
