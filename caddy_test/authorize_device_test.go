package caddy_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/browser"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// deviceSite starts a Caddy whose source is authorized elsewhere: on any device
// that has a browser.
func deviceSite(t *testing.T, w *personWorld, options ...string) (c *personCaddy, address string) {
	t.Helper()
	text, address := caddyfile(t, w.source(append(options, "grant device_code", onADevice)...), "inject_token crm "+w.api.URL)
	return &personCaddy{harness.Start(t, text), t}, address
}

func TestAPersonAuthorizesOnAnotherDevice(t *testing.T) {
	for name, how := range map[string]struct {
		discovery bool
		typed     bool // the code, instead of an address that holds it
	}{
		"the code is typed":          {typed: true},
		"the address holds the code": {},
		"endpoints are discovered":   {discovery: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newPersonWorld(t, 3, "")
			options := []string{"device_url " + w.issuer + "/device/auth", "token_url " + w.tokenURL}
			if how.discovery {
				options = []string{"issuer " + w.issuer}
			}
			c, address := deviceSite(t, w, options...)
			c.assertNeedsAPerson(address, "authorization_required")
			if n := w.stats().TokenRequests; n != 0 {
				t.Errorf("%d token requests before anybody has begun", n)
			}
			began := time.Now()
			begun := c.begin()
			if begun.UserCode == "" || begun.VerificationURI != w.issuer+"/device" || !strings.HasPrefix(begun.VerificationURIComplete, begun.VerificationURI) {
				t.Fatalf("the authorization is %+v", begun)
			}
			person := browser.New(t)
			if how.typed {
				person.ConfirmDevice(begun.VerificationURI, begun.UserCode)
			} else {
				person.ConfirmDevice(begun.VerificationURIComplete, "")
			}
			c.assertNeedsAPerson(address, "authorization_required")
			person.LogIn("peter", "any")
			person.Consent()
			if page := person.Land(w.issuer + "/device/"); !strings.Contains(page.Text, "successful") {
				t.Errorf("the provider says %q", page.Text)
			}
			assertGranted(t, c, begun.ID)
			c.assertServed(address)
			// RFC 8628, section 3.5: every five seconds where the provider says nothing.
			if n, most := w.stats().TokenRequests, 2+int(time.Since(began)/(5*time.Second)); n > most {
				t.Errorf("%d token requests in %v, and there may be %d", n, time.Since(began), most)
			}
			c.Eventually(time.Minute, "the token has been renewed twice", func() bool {
				c.assertServed(address)
				return w.api.distinct() >= 3 || t.Failed()
			})
			w.assertNeverReused()
		})
	}
}

func TestADeviceThatIsRefusedIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, "")
	c, address := deviceSite(t, w, "issuer "+w.issuer)
	begun := c.begin()
	person := browser.New(t)
	person.AbortDevice(begun.VerificationURIComplete)
	if a := c.awaitOutcome(begun.ID); a.Status != "failed" || a.Error != "access_denied" {
		t.Errorf("the authorization is %+v", a)
	}
	before := w.stats().TokenRequests
	resp, body := harness.Get(t, address)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, authorizeCommand) {
		t.Errorf("a request was answered %d %q", resp.StatusCode, body)
	}

	// It may be begun again, and the polls of the first have ended.
	begun = c.begin()
	person.ConfirmDevice(begun.VerificationURIComplete, "")
	person.LogIn("peter", "any")
	person.Consent()
	began := time.Now()
	assertGranted(t, c, begun.ID)
	c.assertServed(address)
	if n, most := w.stats().TokenRequests-before, 3+int(time.Since(began)/(5*time.Second)); n > most {
		t.Errorf("%d token requests since, and there may be %d", n, most)
	}
}

func TestADeviceNeedsThePersonAgainAfterARevocation(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, "")
	c, address := deviceSite(t, w, "issuer "+w.issuer)
	approve := func() {
		begun := c.begin()
		person := browser.New(t)
		person.ConfirmDevice(begun.VerificationURIComplete, "")
		person.LogIn("peter", "any")
		person.Consent()
		assertGranted(t, c, begun.ID)
		c.assertServed(address)
	}
	approve()
	before := w.stats().TokenRequests
	w.revokeGrants()
	c.Eventually(time.Minute, "the revocation is noticed", func() bool {
		resp, _ := harness.Get(t, address)
		return resp.StatusCode == http.StatusBadGateway
	})
	storm(t, address, 100)
	c.assertNeedsAPerson(address, "invalid_grant")
	if n := w.stats().TokenRequests - before; n != 1 {
		t.Errorf("%d token requests since the revocation, not one", n)
	}
	approve()
}
