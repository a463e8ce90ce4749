package socket

import _ "github.com/pion/transport/v3"
import _ "github.com/pion/ice/v3"
