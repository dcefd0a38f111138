package caddy_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/browser"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// addressLine is the address that a person is to open.
var addressLine = regexp.MustCompile(`(?m)^  (https?://\S+)$`)

// openAddress waits until the command prints it.
func openAddress(t *testing.T, d *harness.Dialogue) string {
	t.Helper()
	harness.Eventually(t, time.Minute, "the command prints an address", func() bool { return addressLine.MatchString(d.Output()) })
	return addressLine.FindStringSubmatch(d.Output())[1]
}

func TestTheCommandAndTheBrowserAuthorizeTogether(t *testing.T) {
	for name, how := range map[string]struct {
		callback func(t *testing.T) string
		site     string // beside inject_token
		pasted   bool   // and not landed
	}{
		"Caddy serves the landing page":              {callback: nobody, site: "token_callback /callback"},
		"the command serves the landing page itself": {callback: nobody},
		"nobody serves a landing page": {
			callback: func(t *testing.T) string { return "https://localhost:" + itoa(harness.Port(t)) + "/callback" },
			pasted:   true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newPersonWorld(t, 60, how.callback(t))
			source := w.source(w.endpoints(), withASecret)
			text, address := caddyfile(t, source, "inject_token crm "+w.api.URL)
			if how.site != "" {
				text, address = w.site(source)
			}
			c := &personCaddy{harness.Start(t, text, withSecret(provider.ClientSecret)), t}
			command := harness.StartDialogue(t, c.Dir, "token-source", "authorize", "crm", "--address", c.Admin)
			person := browser.New(t)
			person.Authorize(openAddress(t, command))
			if how.pasted {
				command.Say(person.Arrive(w.callback))
			} else if page := person.Land(w.callback); !strings.Contains(page.Text, "Authorized") {
				t.Errorf("the page says %q", page.Text)
			} else {
				assertPageIsHarmless(t, person, page)
			}
			if code := command.End(); code != 0 {
				t.Errorf("the exit code is %d", code)
			}
			assertAuthorizedBy(t, command, w)
			c.assertServed(address)
			if s := c.status(); s.State != "fresh" || !s.Refreshable {
				t.Errorf("the status is %+v", s)
			}
		})
	}
}

// assertAuthorizedBy wants a command to tell of success, and never of a token.
func assertAuthorizedBy(t *testing.T, command *harness.Dialogue, w *personWorld) {
	t.Helper()
	out := command.Output()
	for _, want := range []string{"Authorized: crm", "offline_access"} {
		if !strings.Contains(out, want) {
			t.Errorf("the command does not print %q", want)
		}
	}
	tokens, _ := w.api.seen()
	for _, token := range tokens {
		if strings.Contains(out, token) {
			t.Error("the command prints a token")
		}
	}
}

func TestTheCommandTellsWhatToEnterOnADevice(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, "")
	c, address := deviceSite(t, w, "issuer "+w.issuer)
	command := harness.StartDialogue(t, c.Dir, "token-source", "authorize", "crm", "--address", c.Admin)
	code := regexp.MustCompile(`\b[A-Z]{4}-[A-Z]{4}\b`)
	harness.Eventually(t, time.Minute, "the command prints a code", func() bool {
		return code.MatchString(command.Output()) && strings.Contains(command.Output(), w.issuer+"/device")
	})
	person := browser.New(t)
	person.ConfirmDevice(w.issuer+"/device", code.FindString(command.Output()))
	person.LogIn("peter", "any")
	person.Consent()
	if code := command.End(); code != 0 {
		t.Errorf("the exit code is %d", code)
	}
	c.assertServed(address)
	assertAuthorizedBy(t, command, w)
}

func TestTheCommandSaysThatThePersonDenied(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, nobody(t))
	c, _ := w.start(w.source(w.endpoints(), withASecret))
	command := harness.StartDialogue(t, c.Dir, "token-source", "authorize", "crm", "--address", c.Admin)
	person := browser.New(t)
	person.Open(openAddress(t, command))
	person.LogIn("peter", "any")
	person.Cancel()
	person.Land(w.callback)
	if code := command.End(); code != 4 {
		t.Errorf("the exit code is %d", code)
	}
	if !strings.Contains(command.Output(), "access_denied") {
		t.Error("the command does not say what the provider said")
	}
}
