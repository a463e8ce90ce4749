package carrier

import (
	"net/http"

	"github.com/coder/websocket"
)

// dialOptions are those of a WebSocket that the browser opens, by its own client.
func dialOptions(*http.Client) *websocket.DialOptions {
	return &websocket.DialOptions{Subprotocols: []string{protocol}}
}
