package injecttoken

import (
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/tokensource"
)

func TestAnErrorOfAnotherSourceLeadsToThatSource(t *testing.T) {
	got := explain(&tokensource.Error{Reason: "the token source session has no token: HTTP status 401, invalid_client", Source: "session"})
	if !strings.Contains(got, "caddy token-source show session") || strings.Contains(got, "token_url") {
		t.Errorf("it says: %s", got)
	}
}

// TestEveryWayToProveAClientHasItsAdvice looks for what a method that is added later
// would lack.
func TestEveryWayToProveAClientHasItsAdvice(t *testing.T) {
	for _, method := range append(tokensource.ClientAuthNames(), "client_assertion") {
		text := clientAdvice[method]
		if text == "" {
			t.Errorf("%s has none", method)
		}
		if got := explain(&tokensource.Error{Code: "invalid_client", StatusCode: 401, ClientAuth: method}); !strings.Contains(got, text) {
			t.Errorf("%s: %s", method, got)
		}
	}
}
