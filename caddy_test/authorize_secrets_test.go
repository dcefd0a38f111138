package caddy_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/browser"
	"github.com/caddytoken/inject-token/caddy_test/internal/canary"
)

func TestNothingOfAnAuthorizationIsSeenAnywhere(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 3, nobody(t))
	e := newExchanges(t, w.tokenURL, "code", "code_verifier", "access_token", "refresh_token")
	w.tokenURL = e.URL
	c, address := w.start(w.source(w.endpoints(), withASecret, "revoke_url "+w.issuer+"/token/revocation"))
	var answers strings.Builder
	listen := func() {
		for _, path := range []string{"/token_sources/", "/token_sources/crm", "/config/", "/metrics"} {
			answers.WriteString(c.AdminGet(path))
		}
	}
	var nest canary.Nest
	begin := func() personAuthorization {
		begun := c.begin()
		nest.Add("state", begun.state())
		listen()
		return begun
	}

	// One that is denied, one that is forged, one whose code has a slip, and one
	// that lands.
	denied := begin()
	person := browser.New(t)
	person.Open(denied.AuthorizationURL)
	person.LogIn("peter", "any")
	person.Cancel()
	person.Land(w.callback)
	c.awaitOutcome(denied.ID)
	forged := url.Values{"code": {"forgedcode0123456789"}, "state": {"forgedstate0123456789"}}
	nest.Add("forged code", forged.Get("code"))
	nest.Add("forged state", forged.Get("state"))
	person.Open(w.callback + "?" + forged.Encode())
	person.Land(w.callback)
	slip := begin()
	nest.Add("code with a slip", "slippedcode0123456789")
	_, _, text := c.complete(slip.ID, "slippedcode0123456789")
	answers.WriteString(text)
	landing := begin()
	person.Open(landing.AuthorizationURL)
	person.Consent()
	page := person.Land(w.callback)
	assertPageIsHarmless(t, person, page)
	assertGranted(t, c, landing.ID)
	for _, a := range []string{denied.ID, slip.ID, landing.ID} {
		answers.WriteString(c.AdminGet("/token_sources/crm/authorizations/" + a))
	}

	// The page before this one is not told to the next.
	person.Follow(address + "/next")
	person.Land(address + "/next")
	_, referers := w.api.seen()
	if len(referers) == 0 || slices.ContainsFunc(referers, func(r string) bool { return strings.Contains(r, "callback") }) {
		t.Errorf("the API was told %q", referers)
	}
	c.Eventually(time.Minute, "the token has been renewed", func() bool {
		c.assertServed(address)
		return w.api.distinct() >= 3 || t.Failed()
	})
	listen()
	_, text = c.ask("POST", "/token_sources/crm/revoke", nil, nil)
	answers.WriteString(text)
	listen()
	c.Stop()

	e.hide(t, &nest)
	if found := nest.Find(c.Log()); len(found) > 0 {
		t.Errorf("the log holds %v", found)
	}
	if found := nest.Find(answers.String()); len(found) > 0 {
		t.Errorf("an answer of the admin API holds %v", found)
	}
	assertAccessLogLeavesOut(t, c, "/callback", "/next")
}

func TestNothingOfADeviceIsSeenAnywhere(t *testing.T) {
	t.Parallel()
	w := newPersonWorld(t, 3, "")
	e := newExchanges(t, w.tokenURL, "device_code", "access_token", "refresh_token")
	c, address := deviceSite(t, w, "device_url "+w.issuer+"/device/auth", "token_url "+e.URL)
	begun := c.begin()
	var nest canary.Nest
	nest.Add("user_code", begun.UserCode)
	person := browser.New(t)
	person.ConfirmDevice(begun.VerificationURIComplete, "")
	person.LogIn("peter", "any")
	person.Consent()
	assertGranted(t, c, begun.ID)
	answers := c.AdminGet("/config/") + c.AdminGet("/token_sources/") + c.AdminGet("/token_sources/crm/authorizations/"+begun.ID)
	c.Eventually(time.Minute, "the token has been renewed", func() bool {
		c.assertServed(address)
		return w.api.distinct() >= 2 || t.Failed()
	})
	c.Stop()
	if found := nest.Find(c.Log()); len(found) > 0 {
		t.Errorf("the log holds %v", found)
	}
	var hidden canary.Nest // from operators as well, who see the user code
	e.hide(t, &hidden)
	if found := hidden.Find(c.Log() + answers); len(found) > 0 {
		t.Errorf("the log or an answer of the admin API holds %v", found)
	}
}

// assertAccessLogLeavesOut wants the access log to tell of one path and not of
// another, whose query is not its business; of that the module tells.
func assertAccessLogLeavesOut(t *testing.T, c *personCaddy, hidden, told string) {
	t.Helper()
	var of []string
	own := 0
	for _, line := range c.LogLines() {
		logger, _ := line["logger"].(string)
		if request, ok := line["request"].(map[string]any); ok && strings.HasPrefix(logger, "http.log.access") {
			uri, _ := request["uri"].(string)
			of = append(of, uri)
		}
		if strings.HasPrefix(logger, "token_sources.crm") && strings.Contains(line["msg"].(string), "authoriz") {
			own++
		}
	}
	if !slices.Contains(of, told) {
		t.Errorf("the access log does not tell of %s: %q", told, of)
	}
	if slices.ContainsFunc(of, func(uri string) bool { return strings.HasPrefix(uri, hidden) }) {
		t.Errorf("the access log tells of %s: %q", hidden, of)
	}
	if own == 0 {
		t.Error("the module's own log tells of no authorization")
	}
}

// exchanges stands before the token endpoint and keeps what goes through.
type exchanges struct {
	*httptest.Server
	names  []string
	mu     sync.Mutex // guards values
	values map[string]string
}

// newExchanges keeps fields of these names.
func newExchanges(t *testing.T, tokenURL string, names ...string) *exchanges {
	target, err := url.Parse(tokenURL)
	if err != nil {
		t.Fatal(err)
	}
	e := &exchanges{names: names, values: make(map[string]string)}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL, r.Out.Host = target, "" },
		ModifyResponse: func(resp *http.Response) error {
			body, err := io.ReadAll(resp.Body)
			resp.Body = io.NopCloser(bytes.NewReader(body))
			var answer map[string]any
			if err == nil && json.Unmarshal(body, &answer) == nil {
				e.keep(func(name string) string { s, _ := answer[name].(string); return s })
			}
			return err
		},
	}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		form, _ := url.ParseQuery(string(body))
		e.keep(form.Get)
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *exchanges) keep(get func(name string) string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range e.names {
		if value := get(name); value != "" {
			e.values[value] = name
		}
	}
}

// hide adds what went through to a nest, of which there is to be some of each
// name.
func (e *exchanges) hide(t *testing.T, nest *canary.Nest) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for value, name := range e.values {
		nest.Add(name, value)
	}
	for _, name := range e.names {
		if !slices.Contains(slices.Collect(maps.Values(e.values)), name) {
			t.Errorf("no %s went to the provider or came from it, so that none can be looked for", name)
		}
	}
}
