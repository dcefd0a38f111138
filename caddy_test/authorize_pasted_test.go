package caddy_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/browser"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

func TestWhatIsInTheAddressBarCanBePasted(t *testing.T) {
	query := func(address, name string) string {
		u, err := url.Parse(address)
		if err != nil {
			return ""
		}
		return u.Query().Get(name)
	}
	for name, paste := range map[string]func(address string) string{
		"the whole address":  func(address string) string { return address },
		"with blanks around": func(address string) string { return "  " + address + "\n" },
		"the query":          func(address string) string { _, q, _ := strings.Cut(address, "?"); return q },
		"the code":           func(address string) string { return query(address, "code") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The browser is sent where nobody listens.
			w := newPersonWorld(t, 60, nobody(t))
			text, address := caddyfile(t, w.source(w.endpoints(), native), "inject_token crm "+w.api.URL)
			c := &personCaddy{harness.Start(t, text), t}
			begun := c.begin()
			person := browser.New(t)
			person.Authorize(begun.AuthorizationURL)
			arrived := person.Arrive(w.callback)
			if query(arrived, "state") != begun.state() || query(arrived, "iss") != w.issuer {
				t.Fatalf("the provider sent the browser to %s", arrived)
			}
			forged := strings.Replace(arrived, "state=", "state=x", 1)
			if _, status, text := c.complete(begun.ID, forged); status != http.StatusBadRequest {
				t.Errorf("the state of another authorization was answered %d %s", status, text)
			}
			a, status, text := c.complete("", paste(arrived))
			if status != http.StatusOK || a.Status != "granted" || a.ID != begun.ID {
				t.Fatalf("completing answered %d %s", status, text)
			}
			assertGranted(t, c, begun.ID)
			c.assertServed(address)
			if _, status, text := c.complete(begun.ID, paste(arrived)); status != http.StatusConflict {
				t.Errorf("completing once more answered %d %s", status, text)
			}
			w.assertNeverReused()
		})
	}
}

func TestAWrongCodeCanBeCorrected(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, nobody(t))
	text, address := caddyfile(t, w.source(w.endpoints(), withASecret), "inject_token crm "+w.api.URL)
	c := &personCaddy{harness.Start(t, text, withSecret(provider.ClientSecret)), t}
	begun := c.begin()
	person := browser.New(t)
	person.Authorize(begun.AuthorizationURL)
	u, err := url.Parse(person.Arrive(w.callback))
	if err != nil {
		t.Fatal(err)
	}
	code := u.Query().Get("code")
	if _, status, text := c.complete(begun.ID, code[1:]); status != http.StatusBadGateway || !strings.Contains(text, "invalid_grant") {
		t.Errorf("a code with a slip was answered %d %s", status, text)
	}
	if a := c.look(begun.ID); a.Status != "pending" {
		t.Errorf("the authorization is %+v", a)
	}
	if _, status, text := c.complete(begun.ID, code); status != http.StatusOK {
		t.Errorf("the code itself was answered %d %s", status, text)
	}
	assertGranted(t, c, begun.ID)
	c.assertServed(address)
}

func TestAnAddressCompletesOnlyItsOwnAuthorization(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, nobody(t))
	text, address := caddyfile(t, w.source(w.endpoints(), native), "inject_token crm "+w.api.URL)
	c := &personCaddy{harness.Start(t, text), t}
	first, second := c.begin(), c.begin()
	person := browser.New(t)
	person.Authorize(second.AuthorizationURL)
	arrived := person.Arrive(w.callback)
	if _, status, text := c.complete(first.ID, arrived); status != http.StatusBadRequest {
		t.Errorf("the address of another authorization was answered %d %s", status, text)
	}
	if n := w.stats().TokenRequests; n != 0 {
		t.Errorf("%d token requests", n)
	}
	if _, status, text := c.complete(second.ID, arrived); status != http.StatusOK {
		t.Errorf("its own was answered %d %s", status, text)
	}
	assertGranted(t, c, second.ID)
	c.assertServed(address)
}
