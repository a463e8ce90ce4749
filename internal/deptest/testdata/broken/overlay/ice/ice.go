package ice

import _ "github.com/pion/ice/v3"
