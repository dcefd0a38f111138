package caddy_test

import (
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

func TestTheFirstTokenIsThereBeforeTheFirstRequest(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+p.API)
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.Eventually(20*time.Second, "a token was asked for", func() bool { return p.Count() == 1 })
	resp, body := harness.Get(t, url+"/orders?a=1")
	if resp.StatusCode != 200 || body != "hello GET /orders" {
		t.Fatalf("answered %d %q", resp.StatusCode, body)
	}
	if n := p.Count(); n != 1 {
		t.Errorf("%d token requests", n)
	}
	p.AssertStrict()
}
