package x

import _ "github.com/idloc/idloc/idloc"
