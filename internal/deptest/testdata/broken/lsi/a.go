package lsi

import _ "github.com/idloc/idloc/overlay"
