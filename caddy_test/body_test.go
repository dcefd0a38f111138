package caddy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestALoginIsSentAndRenewedAsItIsWrittenOut has a provider that takes one body for a
// login, and the token itself for the next.
func TestALoginIsSentAndRenewedAsItIsWrittenOut(t *testing.T) {
	t.Parallel()
	secret := "a\"b\\c-0123456789"
	var living sync.Map // tokens that lead to another
	p := provider.New(t, provider.Dialect{Write: func(w http.ResponseWriter, token provider.Token) {
		living.Store(token.Access, true)
		fmt.Fprintf(w, `{"access_token": %q, "expires_in": 3600}`, token.Access)
	}, Authorize: func(p *provider.Provider, r *provider.TokenRequest) string {
		var body struct{ User, Password, Token string }
		if json.Unmarshal([]byte(r.Body), &body) != nil || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "" {
			return p.Violate("the body %q", r.Body)
		}
		if _, lives := living.Load(body.Token); lives || body.User == "reports" && body.Password == secret {
			return ""
		}
		return "invalid_grant"
	}})
	text, url := caddyfile(t, fmt.Sprintf("source crm {\n grant custom\n token_url %s\n client_id reports\n client_secret {file.{{dir}}/secret}\n"+
		"token_request {\n body application/json `{\"user\": \"{client_id}\", \"password\": \"{client_secret}\"}`\n}\n"+
		"refresh_request {\n body application/json `{\"token\": \"{access_token}\"}`\n}\n}", p.TokenURL()), "inject_token crm "+p.API)
	c := harness.Start(t, text, harness.File("secret", secret))
	get := func() int {
		resp, _ := harness.Get(t, url)
		return resp.StatusCode
	}
	if got := get(); got != http.StatusOK {
		t.Fatalf("answered %d", got)
	}
	harness.Output(t, c.Dir, "token-source", "refresh", "crm", "--address", c.Admin)
	p.Revoke()
	living.Clear() // a token that is dead leads to no other
	if got := get(); got != http.StatusOK {
		t.Errorf("after a revocation answered %d", got)
	}
	var shapes []string
	for _, r := range p.Requests() {
		shapes = append(shapes, strings.SplitN(r.Body, "\"", 3)[1])
	}
	if got := strings.Join(shapes, " "); got != "user token token user" {
		t.Errorf("the requests are %s", got)
	}
	p.AssertStrict()
	if log := c.Log(); strings.Contains(log, "0123456789") {
		t.Error("the secret is in the log")
	}
}
