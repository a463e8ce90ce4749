package overlay

import _ "github.com/idloc/idloc/idloc"
