package caddy_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/browser"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

func TestAnAuthorizationThatWasBegunOutlivesCaddy(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, nobody(t))
	source := w.source(w.endpoints(), native)
	c, address := w.start(source)
	begun := c.begin()
	person := browser.New(t)
	person.Open(begun.AuthorizationURL)
	person.LogIn("peter", "any")
	text, _ := w.site(source)
	if err := c.Reload(strings.Replace(text, "\tlog\n", "\tlog\n\trespond /other 204\n", 1)); err != nil {
		t.Fatal(err)
	}
	c.KillNine()
	c = &personCaddy{c.Again(), t}
	person.Consent()
	assertLanded(t, person, w.callback)
	assertGranted(t, c, begun.ID)
	c.assertServed(address)
	w.assertNeverReused()
}

func TestAnAnswerOfAnotherIssuerIsRefused(t *testing.T) {
	for name, change := range map[string]func(answer url.Values){
		"another":           func(answer url.Values) { answer.Set("iss", "https://mallory.example") },
		"one more slash":    func(answer url.Values) { answer.Set("iss", answer.Get("iss")+"/") },
		"none, as promised": func(answer url.Values) { answer.Del("iss") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The browser is sent to nobody, and the answer is changed on its way.
			w := newPersonWorld(t, 60, nobody(t))
			text, address := caddyfile(t, w.source("grant authorization_code", "issuer "+w.issuer, "redirect_uri "+w.callback,
				"authorize_param prompt consent", native), "token_callback /landing\n inject_token crm "+w.api.URL)
			c := &personCaddy{harness.Start(t, text), t}
			begun := c.begin()
			person := browser.New(t)
			person.Authorize(begun.AuthorizationURL)
			u, err := url.Parse(person.Arrive(w.callback))
			if err != nil {
				t.Fatal(err)
			}
			answer := u.Query()
			change(answer)
			person.Open(address + "/landing?" + answer.Encode())
			page := person.Land(address + "/landing")
			if page.Status != http.StatusBadRequest || !strings.Contains(page.Text, "issuer") || !strings.Contains(page.Text, authorizeCommand) {
				t.Errorf("the page has the status %d:\n%s", page.Status, page.Text)
			}
			if a := c.awaitOutcome(begun.ID); a.Status != "failed" {
				t.Errorf("the authorization is %+v", a)
			}
			if n := w.stats().TokenRequests; n != 0 {
				t.Errorf("%d token requests", n)
			}
		})
	}
}

func TestRevokingEndsTheGrantHereAndAtTheProvider(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, nobody(t))
	c, address := w.start(w.source("grant authorization_code", "issuer "+w.issuer, "redirect_uri "+w.callback, "authorize_param prompt consent", withASecret))
	w.authorize(c)
	c.assertServed(address)
	before := w.stats().TokenRequests

	var answer struct {
		Revoked bool `json:"revoked_at_provider"`
	}
	if status, text := c.ask(http.MethodPost, "/token_sources/crm/revoke", nil, &answer); status != http.StatusOK || !answer.Revoked {
		t.Fatalf("revoking answered %d %s", status, text)
	}
	tokens, _ := w.api.seen()
	for _, token := range tokens {
		if scope, err := introspectAtOIDC(w.issuer, token); err == nil {
			t.Errorf("a token is still good for %s", scope)
		}
	}
	c.assertNeedsAPerson(address, "authorization_required")
	if c.status().HasToken {
		t.Error("there is still a token")
	}
	c.Stop()
	c = &personCaddy{c.Again(), t}
	c.assertNeedsAPerson(address, "authorization_required")
	if n := w.stats().TokenRequests - before; n != 0 {
		t.Errorf("%d token requests since", n)
	}
	w.authorize(c)
	c.assertServed(address)
}
