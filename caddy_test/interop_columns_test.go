package caddy_test

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// get sends a request of a caller.
func (r *interopRow) get() (*http.Response, string) {
	r.t.Helper()
	return r.getWith(r.subject)
}

// getWith sends a request of a caller with a token of its own.
func (r *interopRow) getWith(subject string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.site, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.way.caller && subject != "" {
		req.Header.Set("Authorization", "Bearer "+subject)
	}
	return harness.Do(r.t, req)
}

// assertServed wants a request to be served, and the token to be the one that was
// asked for.
func (r *interopRow) assertServed() {
	r.t.Helper()
	if resp, body := r.get(); resp.StatusCode != http.StatusOK || !strings.HasPrefix(body, "good: ") {
		_, refused := r.api.seen()
		r.t.Fatalf("answered %d %q; the API has refused: %q", resp.StatusCode, body, refused)
	}
}

// assertRenewed wants two renewals in a row, of which callers notice nothing.
func (r *interopRow) assertRenewed() {
	r.t.Helper()
	first := ""
	if !r.way.caller {
		first = r.refreshToken()
	}
	overtaken := 0
	r.c.Eventually(time.Minute, "three tokens were good, one after the other", func() bool {
		resp, body := r.get()
		if resp.StatusCode == http.StatusUnauthorized && first != "" {
			overtaken++ // a refresh has ended the token of a request that was on its way
			return false
		}
		if resp.StatusCode != http.StatusOK {
			r.t.Fatalf("answered %d %q", resp.StatusCode, body)
		}
		tokens, _ := r.api.seen()
		return len(tokens) >= 3
	})
	if renewals := r.c.LogCount("token_sources.crm", "token renewed"); overtaken > renewals {
		r.t.Errorf("%d requests were refused with %d renewals", overtaken, renewals)
	}
	for _, line := range r.c.LogLines() {
		if line["logger"] == "token_sources.crm" && (line["level"] == "warn" || line["level"] == "error") && line["msg"] != needsAPerson {
			r.t.Errorf("the log says: %v", line)
		}
	}
	if r.has(theRotation) && (first == "" || r.refreshToken() == first) {
		r.t.Error("the refresh token did not change")
	}
}

// assertRevoked wants the command to end a token at its server. It is to be renewed
// late from here on, so that it is not renewed meanwhile.
func (r *interopRow) assertRevoked() {
	r.t.Helper()
	if err := r.c.Reload(r.caddyfile("")); err != nil {
		r.t.Fatal(err)
	}
	var token string
	r.c.Eventually(time.Minute, "callers are served with what is stored", func() bool {
		r.assertServed()
		token = r.stored().AccessToken
		facts, err := r.server.introspect(token)
		tokens, _ := r.api.seen()
		return err == nil && facts.Active && slices.Contains(tokens, token)
	})
	output, code := harness.Run(r.t, r.c.Dir, "token-source", "revoke", "crm", "--address", r.c.Admin)
	assertSaid(r.t, output, code, 0, "revoked at the provider")
	if facts, err := r.server.introspect(token); err != nil || facts.Active {
		r.t.Errorf("a token that was revoked is still good (%v)", err)
	}
}

// assertWrongRefused wants a wrong credential to be told for what it is.
func (r *interopRow) assertWrongRefused() {
	r.t.Helper()
	wrong, wrongCode := r.way.wrong, r.offer.wrongCode()
	switch wrong.by {
	case byAuthorize:
		r.assertAuthorizeRefused()
		return
	case byCaller:
		r.assertCallerRefused()
		return
	}
	var details string
	r.c.Eventually(2*time.Minute, "callers are told that the credential is wrong", func() bool {
		resp, _ := harness.Get(r.t, r.site+"/wrong")
		details = resp.Header.Get("Proxy-Status")
		return resp.StatusCode == http.StatusBadGateway
	})
	if !strings.Contains(details, wrongCode) {
		r.t.Errorf("with a wrong credential Proxy-Status is %q, want %s", details, wrongCode)
	}
	args := []string{"token-source", "check", "--config", filepath.Join(r.c.Dir, "Caddyfile"), "--adapter", "caddyfile", "wrong"}
	want := 4
	if wrong.by == byShow {
		args, want = []string{"token-source", "show", "wrong", "--address", r.c.Admin}, 0
	}
	output, code := harness.Run(r.t, r.c.Dir, args...)
	assertSaid(r.t, output, code, want, wrongCode, r.cause())
}

// assertNotHammered wants the server to have been asked once by Caddy, and once by
// the command, however many callers come.
func (r *interopRow) assertNotHammered() {
	r.t.Helper()
	for range 20 {
		if resp, body := harness.Get(r.t, r.site+"/wrong"); resp.StatusCode != http.StatusBadGateway {
			r.t.Fatalf("with a wrong credential answered %d %q", resp.StatusCode, body)
		}
	}
	most := 2
	if r.way.wrong.by != byCheck {
		most = 1
	}
	refused := 0
	for _, request := range r.wrongly.all() {
		if request.status >= 400 {
			refused++
		}
	}
	if r.way.binding == withCertificate {
		refused = r.server.refusals(r.t, r.offer.client)
	}
	if refused == 0 || refused > most {
		r.t.Errorf("the server has refused the wrong credential %d times, and %d are to be", refused, most)
	}
}
