package caddy_test

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/browser"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

func TestAPersonAuthorizesOnceInABrowser(t *testing.T) {
	for name, options := range map[string]func(w *personWorld) []string{
		"a client with a secret": func(w *personWorld) []string { return []string{w.endpoints(), withASecret} },
		"a client without one":   func(w *personWorld) []string { return []string{w.endpoints(), native} },
		"without PKCE":           func(w *personWorld) []string { return []string{w.endpoints(), withASecret, "pkce off"} },
		"a form that is posted": func(w *personWorld) []string {
			return []string{w.endpoints(), withASecret, "authorize_param response_mode form_post"}
		},
		"by discovery": func(w *personWorld) []string {
			return []string{"grant authorization_code", "issuer " + w.issuer, "redirect_uri " + w.callback, "authorize_param prompt consent", native}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newPersonWorld(t, 60, nobody(t))
			c, address := w.start(w.source(options(w)...))
			c.assertNeedsAPerson(address, "authorization_required")
			begun := c.begin()
			person := browser.New(t)
			person.Authorize(begun.AuthorizationURL)
			assertLanded(t, person, w.callback)
			assertGranted(t, c, begun.ID)
			c.assertServed(address)
			if tokens, _ := w.api.seen(); len(tokens) != 1 {
				t.Errorf("%d tokens were active", len(tokens))
			}
			if n := w.stats().TokenRequests; n != 1 {
				t.Errorf("%d token requests", n)
			}
			w.assertNeverReused()
		})
	}
}

// assertLanded wants the page that a person sees in the end.
func assertLanded(t *testing.T, person *browser.Person, callback string) {
	t.Helper()
	page := person.Land(callback)
	if page.Status != http.StatusOK {
		t.Errorf("the page has the status %d", page.Status)
	}
	for _, want := range []string{"Authorized", "crm", "offline_access", "api", `\d{4}-\d\d-\d\d \d\d:\d\d`} {
		if !regexp.MustCompile(want).MatchString(page.Text) {
			t.Errorf("the page does not say %q:\n%s", want, page.Text)
		}
	}
	assertPageIsHarmless(t, person, page)
}

// assertPageIsHarmless wants a page that tells nobody of the code in its own
// address, and that loads nothing.
func assertPageIsHarmless(t *testing.T, person *browser.Person, page browser.Page) {
	t.Helper()
	if got := page.Header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") || strings.Contains(got, "unsafe") {
		t.Errorf("Content-Security-Policy: %s", got)
	}
	for field, want := range map[string]string{
		"Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
	} {
		if got := page.Header.Get(field); got != want {
			t.Errorf("%s: %s", field, got)
		}
	}
	if got := page.Header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("Content-Type: %s", got)
	}
	u, err := url.Parse(page.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range person.Console() {
		// That the status of such a page is an error is the browser's to say.
		itself := strings.HasPrefix(line, "network ") && strings.Contains(line, "//"+u.Host+u.Path)
		if strings.Contains(line, u.Host) && !itself {
			t.Errorf("the browser's console says: %s", line)
		}
	}
}

// assertGranted wants an authorization to have been granted, and the status of
// the source to say so.
func assertGranted(t *testing.T, c *personCaddy, id string) {
	t.Helper()
	a := c.awaitOutcome(id)
	if a.Status != "granted" || !slices.Equal(a.Scopes, []string{"offline_access", "api"}) || a.TokenExpires.IsZero() {
		t.Errorf("the authorization is %+v", a)
	}
	if s := c.status(); s.State != "fresh" || !s.HasToken || !s.Refreshable || s.Authorize != "" {
		t.Errorf("the status is %+v", s)
	}
}

func TestTheLandingPageWorksBeneathOtherPathsAndProxies(t *testing.T) {
	front := harness.Port(t)
	for name, c := range map[string]struct {
		callback func(inner string) string
		site     string
	}{
		"the whole of a site": {
			func(inner string) string { return inner + "/" },
			"token_callback",
		},
		"beneath a path that is cut off": {
			func(inner string) string { return inner + "/apps/crm/oauth/landing" },
			"handle_path /apps/crm/* {\n token_callback /oauth/landing\n respond 404\n}",
		},
		"before another handler of the same path": {
			func(inner string) string { return inner + "/landing" },
			"respond /* beside 404\n token_callback /landing",
		},
		"in a route, behind another Caddy with TLS": {
			func(string) string { return fmt.Sprintf("https://localhost:%d/inner/landing", front) },
			"route {\n token_callback /landing\n respond 404\n}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := itoa(harness.Port(t))
			inner := "http://127.0.0.1:" + port
			api := "http://127.0.0.1:" + itoa(harness.Port(t))
			w := newPersonWorld(t, 60, c.callback(inner))
			caddy := &personCaddy{harness.Start(t, fmt.Sprintf(`{
	{{globals}}
	token_sources {
		%s
	}
}
http://:%s {
	bind 127.0.0.1
	%s
}
%s {
	bind 127.0.0.1
	inject_token crm %s
}
`, w.source(w.endpoints(), withASecret), port, c.site, api, w.api.URL), withSecret(provider.ClientSecret)), t}
			if strings.HasPrefix(w.callback, "https") {
				harness.Start(t, fmt.Sprintf(`{
	{{globals}}
}
https://localhost:%d {
	bind 127.0.0.1
	handle_path /inner/* {
		reverse_proxy %s
	}
}
`, front, inner))
			}
			begun := caddy.begin()
			person := browser.New(t)
			person.Authorize(begun.AuthorizationURL)
			assertLanded(t, person, w.callback)
			assertGranted(t, caddy, begun.ID)
			caddy.assertServed(api)
		})
	}
}

func TestADeniedAuthorizationSaysSo(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, nobody(t))
	c, address := w.start(w.source(w.endpoints(), withASecret))
	begun := c.begin()
	person := browser.New(t)
	person.Open(begun.AuthorizationURL)
	person.LogIn("peter", "any")
	person.Cancel()
	page := person.Land(w.callback)
	if page.Status < 400 {
		t.Errorf("the page has the status %d", page.Status)
	}
	for _, want := range []string{"access_denied", "End-User aborted interaction", authorizeCommand} {
		if !strings.Contains(page.Text, want) {
			t.Errorf("the page does not say %q:\n%s", want, page.Text)
		}
	}
	assertPageIsHarmless(t, person, page)
	if a := c.awaitOutcome(begun.ID); a.Status != "failed" || a.Error != "access_denied" {
		t.Errorf("the authorization is %+v", a)
	}
	resp, body := harness.Get(t, address)
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(body, authorizeCommand) {
		t.Errorf("a request was answered %d %q", resp.StatusCode, body)
	}
	if s := c.status(); s.State != "needs_authorization" {
		t.Errorf("the status is %+v", s)
	}
	if n := w.stats().TokenRequests; n != 0 {
		t.Errorf("%d token requests", n)
	}

	// Another person may say yes.
	begun = c.begin()
	other := browser.New(t)
	other.Authorize(begun.AuthorizationURL)
	assertLanded(t, other, w.callback)
	assertGranted(t, c, begun.ID)
	c.assertServed(address)
}

func TestAPageThatWasVisitedTwiceOrForgedAuthorizesNobody(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 60, nobody(t))
	c, address := w.start(w.source(w.endpoints(), native))
	// Whoever has begun one knows its state, and can have others open this.
	known := "&state=" + c.begin().state()
	image, script := url.QueryEscape(`<img src=x onerror="alert(1)">`), url.QueryEscape(`<script>alert(1)</script>`)
	person := browser.New(t)
	for _, forged := range []string{
		"", "?code=stolen", "?code=stolen&state=guessed", "?error=access_denied&state=guessed&error_description=" + image,
		"?error=access_denied&error_description=" + image + script + known, "?error=" + image + script + "&state=" + c.begin().state(),
	} {
		person.Open(w.callback + forged)
		page := person.Land(w.callback)
		if page.Status < 400 || page.Status != http.StatusBadRequest && !strings.Contains(forged, "&state=crm") {
			t.Errorf("%s: the page has the status %d", forged, page.Status)
		}
		if person.Sees("img") || person.Sees("script") {
			t.Errorf("%s: the page holds what its address says", forged)
		}
		assertPageIsHarmless(t, person, page)
	}
	begun := c.begin()
	person.Authorize(begun.AuthorizationURL)
	landed := person.Land(w.callback)
	assertGranted(t, c, begun.ID)
	person.Open(landed.URL)
	if page := person.Land(w.callback); page.Status != http.StatusBadRequest || !strings.Contains(page.Text, "Authorized already") {
		t.Errorf("the page that was visited again has the status %d:\n%s", page.Status, page.Text)
	}
	c.assertServed(address)
	if n := w.stats().TokenRequests; n != 1 {
		t.Errorf("%d token requests", n)
	}
}
