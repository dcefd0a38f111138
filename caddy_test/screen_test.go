package caddy_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// commands that a terminal obeys: it clears the screen, takes a title, writes
// the clipboard.
const orders = "\x1b[2J\x1b]0;title\x07\x1b]52;c;cm0=\x07\u009b2J\r\b"

// hasOrders says whether a command of orders would reach the terminal.
func hasOrders(raw string) bool {
	for _, order := range []string{"\x1b[2J", "\x1b]", "\x07", "\u009b", "\b"} {
		if strings.Contains(raw, order) {
			return true
		}
	}
	return false
}

// TestWhatAProviderSaysDoesNothingToTheTerminal has one that puts control
// sequences into everything that is shown of it.
func TestWhatAProviderSaysDoesNothingToTheTerminal(t *testing.T) {
	t.Parallel()
	answer := func(w http.ResponseWriter, status int, fields map[string]any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(fields)
	}
	refusal := map[string]any{"error": "invalid_grant", "error_description": "no" + orders, "error_uri": "https://example.org/" + orders}
	for name, device := range map[string]map[string]any{
		"of a code": nil,
		"user_code": {"device_code": "d", "user_code": "AB" + orders + "CD", "verification_uri": "https://example.org/", "expires_in": 60},
		"verification_uri": {"device_code": "d", "user_code": "ABCD", "verification_uri": "https://example.org/" + orders, "expires_in": 60,
			"verification_uri_complete": "https://example.org/?" + orders},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			grant := "authorization_code"
			pages := map[string]func(*provider.Provider, http.ResponseWriter, *http.Request){}
			if device != nil {
				grant = "device_code"
				pages["/device"] = func(_ *provider.Provider, w http.ResponseWriter, _ *http.Request) { answer(w, 200, device) }
			}
			d := newDeskOf(t, provider.Dialect{Pages: pages}, grant, "")
			d.provider.Set(func(k *provider.Knobs) {
				k.Intercept = func(w http.ResponseWriter, _ *http.Request, _ int) bool { answer(w, 400, refusal); return true }
			})
			s := d.terminal("authorize", "crm")
			if device == nil {
				s.Type(d.provider.Visit(d.awaitURL(s)).Shown)
				s.Await("invalid_grant")
				s.Await("\n> ")
				s.Interrupt()
			}
			s.ExitCode()
			for _, list := range []string{"list", "show crm"} {
				l := d.terminal(strings.Fields(list)...)
				if l.ExitCode() != 0 || hasOrders(l.Raw()) {
					t.Errorf("%s gives orders to the terminal: %q", list, l.Raw())
				}
			}
			if hasOrders(s.Raw()) {
				t.Errorf("authorize gives orders to the terminal: %q", s.Raw())
			}
		})
	}
}

// TestAGrantedScopeDoesNothingToTheTerminal has them in what is granted.
func TestAGrantedScopeDoesNothingToTheTerminal(t *testing.T) {
	t.Parallel()
	d := newDesk(t, "authorization_code", "")
	d.provider.Set(func(k *provider.Knobs) { k.Scope = "read " + orders })
	s := d.terminal("authorize", "crm")
	s.Type(d.provider.Visit(d.awaitURL(s)).Shown)
	assertEnd(t, s, 0, "Authorized: crm")
	for _, list := range []string{"list", "show crm", "list --json"} {
		l := d.terminal(strings.Fields(list)...)
		if l.ExitCode() != 0 || hasOrders(l.Raw()) {
			t.Errorf("%s gives orders to the terminal: %q", list, l.Raw())
		}
	}
	if hasOrders(s.Raw()) {
		t.Errorf("authorize gives orders to the terminal: %q", s.Raw())
	}
}
