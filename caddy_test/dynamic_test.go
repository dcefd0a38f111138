package caddy_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// tenantAPI is one of the hosts that a provider may name. It says its name.
type tenantAPI struct {
	*httptest.Server
	host  atomic.Value // what the last request had for Host
	count atomic.Int64
}

func newTenantAPI(t *testing.T, name string, start func(http.Handler) *httptest.Server) *tenantAPI {
	a := new(tenantAPI)
	a.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.host.Store(r.Host)
		a.count.Add(1)
		fmt.Fprintf(w, "%s %v", name, strings.HasPrefix(r.Header.Get("Authorization"), "Bearer access-"))
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *tenantAPI) address() string {
	_, address, _ := strings.Cut(a.URL, "://")
	return address
}

// ofAnswer is a site whose upstream is what the provider says.
func ofAnswer(t *testing.T, p *talkative, options string) (text, url string) {
	t.Helper()
	return caddyfile(t, crmSource(p.Provider, "token_response {\n expose api api_url\n}"), "inject_token crm {\n dynamic token_source crm api\n "+options+"\n}")
}

func TestTheAPIsHostIsTheOneThatTheAnswerNames(t *testing.T) {
	t.Parallel()
	one, two := newTenantAPI(t, "one", httptest.NewTLSServer), newTenantAPI(t, "two", httptest.NewTLSServer)
	p := newTalkative(t, provider.Dialect{})
	p.say("api_url", one.URL+"/")
	text, url := ofAnswer(t, p, "allow_hosts 127.0.0.1\n transport http {\n tls_trust_pool file {{dir}}/ca.pem\n}")
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Certificate().Raw}))
	c := harness.Start(t, text, withSecret(provider.ClientSecret), harness.File("ca.pem", ca))
	if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK || body != "one true" {
		t.Fatalf("answered %d %s", resp.StatusCode, body)
	}
	if got := one.host.Load(); got != one.address() {
		t.Errorf("it was asked as %v, want %s", got, one.address())
	}
	// A refresh leads elsewhere, while there are requests.
	p.say("api_url", two.address())
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK || !strings.HasSuffix(body, " true") {
				t.Errorf("meanwhile answered %d %s", resp.StatusCode, body)
			}
		}
	}()
	harness.Output(t, c.Dir, "token-source", "refresh", "crm", "--address", c.Admin)
	stop.Store(true)
	<-ended
	if resp, body := harness.Get(t, url); resp.StatusCode != http.StatusOK || body != "two true" {
		t.Errorf("after a renewal answered %d %s", resp.StatusCode, body)
	}
	if got := two.host.Load(); got != two.address() {
		t.Errorf("it was asked as %v, want %s", got, two.address())
	}
	if log := c.Log(); strings.Contains(log, "not used; rewrite adds one") {
		t.Error("the log complains about a path that is none")
	}
}

func TestAnAnswerLeadsNoTokenToAHostThatIsNotAllowed(t *testing.T) {
	t.Parallel()
	evil, good := newTenantAPI(t, "evil", httptest.NewServer), newTenantAPI(t, "good", httptest.NewServer)
	_, evilPort, _ := strings.Cut(evil.address(), ":")
	for value, want := range map[string]int{
		evil.URL:                              http.StatusForbidden,
		evil.address():                        http.StatusForbidden,
		"http://localhost:" + evilPort:        http.StatusForbidden,
		"http://[::1]:" + evilPort:            http.StatusForbidden,
		"{http.request.header.X-Upstream}":    http.StatusServiceUnavailable,
		"127.0.0.1:{http.request.header.X-P}": http.StatusServiceUnavailable,
		"http://good@" + evil.address():       http.StatusServiceUnavailable,
		"https://" + good.address():           http.StatusServiceUnavailable, // which is no TLS
		"":                                    http.StatusServiceUnavailable,
		"unix//run/evil.sock":                 http.StatusForbidden,
		good.URL + "/v2/":                     http.StatusOK,
	} {
		p := newTalkative(t, provider.Dialect{})
		p.say("api_url", value)
		text, url := ofAnswer(t, p, "allow_hosts "+good.address())
		c := harness.Start(t, text, withSecret(provider.ClientSecret))
		for range 2 {
			req, err := http.NewRequest(http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-Upstream", evil.address())
			req.Header.Set("X-P", evilPort)
			if resp, body := harness.Do(t, req); resp.StatusCode != want {
				t.Errorf("%s: answered %d %s", value, resp.StatusCode, body)
			}
		}
		logged := c.LogCount("http.reverse_proxy.upstreams.token_source", "there is no upstream") +
			c.LogCount("http.reverse_proxy.upstreams.token_source", "the upstream of the provider's answer has a path or a query, which is not used; rewrite adds one")
		if wants := want == http.StatusServiceUnavailable || value == good.URL+"/v2/" || value == "unix//run/evil.sock"; (logged == 1) != wants || logged > 1 {
			t.Errorf("%s: the log says what is wrong %d times", value, logged)
		}
	}
	if n := evil.count.Load(); n != 0 {
		t.Errorf("%d requests came to the other host", n)
	}
}

func TestWithoutATokenThereIsNoUpstream(t *testing.T) {
	t.Parallel()
	api := newTenantAPI(t, "api", httptest.NewServer)
	p := newTalkative(t, provider.Dialect{})
	p.say("api_url", api.URL)
	p.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(http.StatusServiceUnavailable, "") })
	text, url := ofAnswer(t, p, "allow_hosts "+api.address())
	c := harness.Start(t, text, withSecret(provider.ClientSecret))
	c.WaitLog("no token")
	if resp, _ := harness.Get(t, url); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("answered %d", resp.StatusCode)
	}
	p.Set(func(k *provider.Knobs) { k.Intercept, k.Delay = nil, time.Second })
	c.Eventually(time.Minute, "it serves when there is a token", func() bool {
		resp, body := harness.Get(t, url)
		return resp.StatusCode == http.StatusOK && body == "api true"
	})
	// Nothing waits for a token that is there.
	p.Set(func(k *provider.Knobs) { k.Delay = time.Hour })
	if resp, _ := harness.Get(t, url); resp.StatusCode != http.StatusOK {
		t.Errorf("answered %d", resp.StatusCode)
	}
}
