//go:build !js

package carrier

import (
	"net/http"

	"github.com/coder/websocket"
)

// dialOptions are those of a WebSocket that client opens.
func dialOptions(client *http.Client) *websocket.DialOptions {
	return &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{protocol}, CompressionMode: websocket.CompressionDisabled}
}
