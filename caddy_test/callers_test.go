package caddy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// exchange is a request as its bytes, and what the caller must not get by it.
type exchange struct {
	name, raw string
	query     string // that the upstream must see beside the token; "" is not looked at
}

// raw makes a GET of these lines.
func raw(lines ...string) string {
	return strings.Join(lines, "\r\n") + "\r\nConnection: close\r\n\r\n"
}

// TestNoTrickOfACallerChangesTheToken sends each request as the bytes that it
// is. The upstream must see our token once in each of its places and nothing
// of the caller's there, or not see the request at all; the caller must never
// see our token.
func TestNoTrickOfACallerChangesTheToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := newRecorder(t)
	text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+upstream.address+` {
		header Authorization
		header X-Api-Key
		query access_token
	}`)
	// Caddy drops fields with an underscore by itself, unless it is told not to.
	text = strings.Replace(text, "{{globals}}", "{{globals}}\n servers {\n expected_underscore_headers x_api_key x-api_key\n}", 1)
	c := harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
	const body = "5\r\nhello\r\n0\r\n"
	chunked := func(trailer string) string {
		return "POST /x?n=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTrailer: " + strings.Split(trailer, ":")[0] + ", X-Kept\r\nTransfer-Encoding: chunked\r\n\r\n" +
			body + trailer + "\r\nX-Kept: yes\r\n\r\n"
	}
	exchanges := []exchange{
		{"nothing special", raw("GET /x?n=1 HTTP/1.1", "Host: a"), "n=1"},
		{"Connection: Authorization", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Authorization, X-Api-Key, close\r\n\r\n", ""},
		{"Connection twice, odd case", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: AUTHORIZATION\r\nConnection: close, x-api-key\r\n\r\n", ""},
		{"its own Authorization", raw("GET /x HTTP/1.1", "Host: a", "Authorization: Bearer CALLER"), ""},
		{"several", raw("GET /x HTTP/1.1", "Host: a", "Authorization: Bearer CALLER", "Authorization: Basic CALLER", "X-Api-Key: CALLER"), ""},
		{"odd case", raw("GET /x HTTP/1.1", "Host: a", "aUTHORIZATION: CALLER", "x-API-key: CALLER"), ""},
		{"underscores", raw("GET /x HTTP/1.1", "Host: a", "x_aPI_KEY: CALLER"), ""},
		{"an underscore and a hyphen", raw("GET /x HTTP/1.1", "Host: a", "X-Api_Key: CALLER"), ""},
		{"blanks before the colon", raw("GET /x HTTP/1.1", "Host: a", "Authorization : CALLER"), ""},
		{"a folded line", raw("GET /x HTTP/1.1", "Host: a", "X-Y: 1", " Authorization: other"), ""},
		{"a bare LF", raw("GET /x HTTP/1.1", "Host: a", "X-Y: 1\nAuthorization: CALLER"), ""},
		{"a bare CR", raw("GET /x HTTP/1.1", "Host: a", "X-Y: 1\rAuthorization: CALLER"), ""},
		{"a NUL", raw("GET /x HTTP/1.1", "Host: a", "X-Y: 1\x00", "Authorization: CALLER"), ""},
		{"CR and LF in the path", raw("GET /x%0d%0aAuthorization:%20CALLER HTTP/1.1", "Host: a"), ""},
		{"CR and LF in the query", raw("GET /x?a=%0d%0aAuthorization:%20other HTTP/1.1", "Host: a"), "a=%0d%0aAuthorization:%20other"},
		{"a trailer", chunked("Authorization: CALLER"), "n=1"},
		{"a trailer, odd case", chunked("x_api-KEY: CALLER"), "n=1"},
		{"a trailer that was not announced", strings.Replace(chunked("Authorization: CALLER"), "Trailer: Authorization, ", "Trailer: ", 1), "n=1"},
		{"two lengths", "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /y HTTP/1.1\r\nHost: a\r\nAuthorization: CALLER\r\n\r\n", ""},
		{"its own parameter", raw("GET /x?a=1&access_token=CALLER&b=2 HTTP/1.1", "Host: a"), "a=1&b=2"},
		{"twice", raw("GET /x?access_token=CALLER&access_token=CALLER HTTP/1.1", "Host: a"), "-"},
		{"encoded", raw("GET /x?a=1&%61ccess%5Ftoken=CALLER HTTP/1.1", "Host: a"), "a=1"},
		{"upper case", raw("GET /x?ACCESS_TOKEN=CALLER&a HTTP/1.1", "Host: a"), "a"},
		{"after a semicolon", raw("GET /x?a=1;access_token=CALLER;b=2 HTTP/1.1", "Host: a"), "a=1;b=2"},
		{"in brackets", raw("GET /x?a=1&access_token[]=CALLER&access_token%5B0%5D=CALLER HTTP/1.1", "Host: a"), "a=1"},
		{"without a value", raw("GET /x?access_token&a=1 HTTP/1.1", "Host: a"), "a=1"},
		{"a question mark in the query", raw("GET /x?a=1?access_token=2 HTTP/1.1", "Host: a"), "a=1?access_token=2"},
		{"an odd query", raw("GET /x?b=2&a=1;c=3&d&e=%zz&f=a%20b+c HTTP/1.1", "Host: a"), "b=2&a=1;c=3&d&e=%zz&f=a%20b+c"},
		{"an odd query around its own parameter", raw("GET /x?&&b=2&access_token=CALLER&a=1;c=3&d&e=%zz&f=a%20b+c&=&& HTTP/1.1", "Host: a"), "&&b=2&a=1;c=3&d&e=%zz&f=a%20b+c&=&&"},
		{"TRACE", raw("TRACE /x HTTP/1.1", "Host: a"), ""},
		{"trace", raw("trace /x HTTP/1.1", "Host: a"), ""},
		{"another method by a header", raw("POST /x HTTP/1.1", "Host: a", "X-HTTP-Method-Override: TRACE", "Content-Length: 0"), ""},
		{"an absolute target", raw("GET http://"+upstream.elsewhere+"/x?n=1 HTTP/1.1", "Host: a"), "n=1"},
		{"an absolute target, its own Host", raw("GET http://"+upstream.elsewhere+"/x HTTP/1.1", "Host: "+upstream.elsewhere), ""},
		{"an absolute https target", raw("GET https://"+upstream.elsewhere+"/x HTTP/1.1", "Host: a"), ""},
		{"a target with a user", raw("GET http://user:pw@"+upstream.elsewhere+"/x HTTP/1.1", "Host: a"), ""},
		{"another Host", raw("GET /x HTTP/1.1", "Host: "+upstream.elsewhere), ""},
		{"two Hosts", raw("GET /x HTTP/1.1", "Host: a", "Host: "+upstream.elsewhere), ""},
		{"a Host with a path", raw("GET /x HTTP/1.1", "Host: "+upstream.elsewhere+"/x@a"), ""},
		{"forwarding fields", raw("GET /x HTTP/1.1", "Host: a", "X-Forwarded-Host: "+upstream.elsewhere, "Forwarded: host="+upstream.elsewhere, "X-Original-URL: http://"+upstream.elsewhere+"/", "X-Rewrite-URL: http://"+upstream.elsewhere+"/"), ""},
		{"a target that looks like a host", raw("GET //"+upstream.elsewhere+"/x HTTP/1.1", "Host: a"), ""},
		{"a backslash", raw(`GET \\`+upstream.elsewhere+"/x HTTP/1.1", "Host: a"), ""},
		{"an at sign", raw("GET @"+upstream.elsewhere+"/x HTTP/1.1", "Host: a"), ""},
		{"CONNECT", raw("CONNECT "+upstream.elsewhere+" HTTP/1.1", "Host: "+upstream.elsewhere), ""},
		{"OPTIONS *", raw("OPTIONS * HTTP/1.1", "Host: a"), ""},
		{"HTTP/1.0", raw("GET /x?n=1 HTTP/1.0", "Authorization: CALLER"), "n=1"},
		{"an upgrade", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, Authorization, close\r\nUpgrade: odd\r\nAuthorization: CALLER\r\n\r\n", ""},
		{"asking for trailers", raw("GET /x HTTP/1.1", "Host: a", "TE: trailers, Authorization"), ""},
	}
	arrived := 0
	for _, e := range exchanges {
		t.Run(e.name, func(t *testing.T) {
			upstream.clear()
			conn := dial(t, url)
			if _, err := io.WriteString(conn, e.raw); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn)
			if len(answer) == 0 {
				t.Fatalf("no answer, %v", err)
			}
			hasNone(t, p, "the answer", string(answer))
			if n := upstream.elsewhereSeen(); n != 0 {
				t.Errorf("%d connections were made to a host of the caller's choice", n)
			}
			seen := upstream.requests()
			if e.query != "" && len(seen) != 1 {
				t.Fatalf("%d requests arrived; the caller got %s", len(seen), answer)
			}
			for _, request := range seen {
				arrived++
				upstream.assertInjected(t, p, request)
				query, _ := cutToken(request.query)
				if want := strings.TrimPrefix(e.query, "-"); e.query != "" && query != want {
					t.Errorf("the query arrived as %s, want %s", query, want)
				}
				if strings.Contains(e.raw, "X-Kept: yes") && request.trailer.Get("X-Kept") != "yes" {
					t.Errorf("the trailers arrived as %v", request.trailer)
				}
				if strings.EqualFold(request.method, "TRACE") || request.method == "CONNECT" {
					t.Errorf("%s was sent", request.method)
				}
			}
			if method, _, _ := strings.Cut(e.raw, " "); (strings.EqualFold(method, "TRACE") || method == "CONNECT") && !strings.HasPrefix(string(answer), "HTTP/1.1 405") {
				t.Errorf("answered %.80s", answer)
			}
		})
	}
	if arrived < len(exchanges)/2 {
		t.Errorf("only %d of the requests arrived", arrived)
	}
	if n := p.Count(); n != 1 {
		t.Errorf("callers caused %d token requests", n)
	}
	hasNone(t, p, "the log", c.Log())
}

// TestARedirectOfTheUpstreamDoesNotShowTheToken has an upstream that repeats
// the URL it was asked for in every place where servers do.
func TestARedirectOfTheUpstreamDoesNotShowTheToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target := r.URL.Path + "/?" + r.URL.RawQuery
		w.Header().Set("Location", "https://api.example/"+target+"#top")
		w.Header().Set("Content-Location", target)
		w.Header()["Link"] = []string{"<" + target + ">; rel=next, <" + target + `&page=2>; rel="last"`, "<" + target + ">; rel=prev"}
		w.Header().Set("Refresh", "3; url="+target)
		w.WriteHeader(http.StatusMovedPermanently)
	}))
	text, url := caddyfile(t, crmSource(p, ""), "log\ninject_token crm "+upstream+" {\nquery access_token\n}")
	c := harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
	resp, _ := harness.Get(t, url+"/x?a=1&b=%20")
	if resp.StatusCode != http.StatusMovedPermanently {
		t.Fatalf("answered %d", resp.StatusCode)
	}
	for field, want := range map[string][]string{
		"Location":         {"https://api.example//x/?a=1&b=%20#top"},
		"Content-Location": {"/x/?a=1&b=%20"},
		"Link":             {`</x/?a=1&b=%20>; rel=next, </x/?a=1&b=%20&page=2>; rel="last"`, "</x/?a=1&b=%20>; rel=prev"},
		"Refresh":          {"3; url=/x/?a=1&b=%20"},
	} {
		if got := resp.Header[field]; !slices.Equal(got, want) {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	c.WaitLog(`"msg":"handled request"`)
	hasNone(t, p, "the log", c.Log())
}

// TestAnEarlyHintOfTheUpstreamDoesNotShowTheToken is the same in an answer
// before the answer.
func TestAnEarlyHintOfTheUpstreamDoesNotShowTheToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css?"+r.URL.RawQuery+">; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		fmt.Fprint(w, "the page")
	}))
	text, url := caddyfile(t, crmSource(p, ""), "inject_token crm "+upstream+" {\nquery access_token\n}")
	c := harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
	conn := dial(t, url)
	fmt.Fprint(conn, raw("GET /?a=1 HTTP/1.1", "Host: a"))
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	const want = "Link: </style.css?a=1>; rel=preload\r\n"
	if !strings.HasPrefix(string(answer), "HTTP/1.1 103 ") || strings.Count(string(answer), want) != 2 {
		t.Errorf("want 103 and 200, each with %q; got:\n%s", want, answer)
	}
	hasNone(t, p, "the answer", string(answer))
	hasNone(t, p, "the log", c.Log())
}

// TestUpstreamsOfACallersChoiceGetTheTokenOnlyWhereAllowed has upstreams whose
// address holds a placeholder.
func TestUpstreamsOfACallersChoiceGetTheTokenOnlyWhereAllowed(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	allowed, refused := newRecorder(t), newRecorder(t)
	_, port, _ := strings.Cut(allowed.address, ":")
	for name, site := range map[string]string{
		"the directive": "inject_token crm {http.request.header.X-Upstream} {\n allow_hosts *.example.org 127.0.0.1:" + port + "\n}",
		"the transport": "reverse_proxy {http.request.header.X-Upstream} {\n transport inject_token crm {\n allow_hosts *.example.org 127.0.0.1:" + port + "\n}\n}",
		"dynamic":       "inject_token crm {\n dynamic a {\n name localhost\n port {http.request.header.X-Port}\n versions ipv4\n}\n allow_hosts *.example.org 127.0.0.1:" + port + "\n}",
	} {
		t.Run(name, func(t *testing.T) {
			text, url := caddyfile(t, crmSource(p, ""), site)
			harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
			for _, r := range []*recorder{allowed, refused} {
				r.clear()
				req, err := http.NewRequest(http.MethodGet, url+"/x", nil)
				if err != nil {
					t.Fatal(err)
				}
				_, port, _ := strings.Cut(r.address, ":")
				req.Header.Set("X-Upstream", r.address)
				req.Header.Set("X-Port", port)
				resp, body := harness.Do(t, req)
				want, n := http.StatusOK, 1
				if r == refused {
					want, n = http.StatusForbidden, 0
				}
				if resp.StatusCode != want || len(r.requests()) != n {
					t.Errorf("answered %d %q, want %d; %d requests arrived", resp.StatusCode, body, want, len(r.requests()))
				}
			}
			if name != "dynamic" {
				// A name may be allowed and a file of that name not.
				evil := filepath.Join(filepath.Dir(socket(t)), "evil.example.org")
				listener, err := net.Listen("unix", evil)
				if err != nil {
					t.Fatal(err)
				}
				serveOn(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a file of this machine got a request") }), listener)
				req, err := http.NewRequest(http.MethodGet, url+"/x", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("X-Upstream", "unix/"+evil)
				if resp, body := harness.Do(t, req); resp.StatusCode != http.StatusForbidden {
					t.Errorf("a file of this machine was answered %d %q", resp.StatusCode, body)
				}
			}
			if request := allowed.requests(); len(request) == 1 && !authorized(p, request[0].header["Authorization"]) {
				t.Errorf("the allowed host got %v", request[0].header)
			}

			without := strings.ReplaceAll(text, "allow_hosts *.example.org 127.0.0.1:"+port, "")
			dir := t.TempDir()
			harness.WriteFile(t, dir, "secret", "x")
			harness.WriteFile(t, dir, "Caddyfile", strings.NewReplacer("{{globals}}", "", "{{dir}}", dir).Replace(without))
			if out, code := harness.Run(t, dir, "validate", "--config", "Caddyfile"); code == 0 || !strings.Contains(out, "allow_hosts: missing") {
				t.Errorf("without allow_hosts the configuration is taken, %d:\n%s", code, out)
			}
		})
	}
}

func TestKeptCredentialsAreTheCallersOwn(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := newRecorder(t)
	upstream.status = http.StatusUnauthorized
	text, url := caddyfile(t, crmSource(p, ""), "log\ninject_token crm "+upstream.address+" {\n header Authorization\n query key\n existing keep\n}")
	c := harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
	c.Eventually(20*time.Second, "there is a token", func() bool { return p.Count() == 1 })
	for range 3 {
		for path, authorization := range map[string][]string{"/x?a=1": {"Basic Y2FsbGVy", "second"}, "/x?KEY=own&a": nil} {
			req, err := http.NewRequest(http.MethodGet, url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if authorization != nil {
				req.Header["Authorization"] = authorization
			}
			upstream.clear()
			if resp, _ := harness.Do(t, req); resp.StatusCode != http.StatusUnauthorized {
				t.Fatalf("answered %d", resp.StatusCode)
			}
			got := upstream.requests()[0]
			if !slices.Equal(got.header["Authorization"], authorization) || "/x?"+got.query != path {
				t.Errorf("%s arrived with the query %s and %q", path, got.query, got.header["Authorization"])
			}
		}
	}
	c.Eventually(20*time.Second, "the access log says kept", func() bool { return len(outcomes(c)) == 6 })
	if got := slices.Compact(outcomes(c)); !slices.Equal(got, []string{"crm kept"}) {
		t.Errorf("the access log says %v", got)
	}
	if n := p.Count(); n != 1 {
		t.Errorf("what the upstream thinks of a caller's own credential caused token requests: there were %d", n)
	}
	// That counts for something only if a refusal of our own token does.
	harness.Get(t, url+"/x")
	c.Eventually(20*time.Second, "a refusal of our token renews it", func() bool { return p.Count() == 2 })
}

func TestWithoutATokenTheCallersOwnIsStillRemoved(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	p.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(http.StatusUnauthorized, "invalid_client") })
	upstream := newRecorder(t)
	text, url := caddyfile(t, crmSource(p, ""), "log\ninject_token crm "+upstream.address+" {\n header Authorization\n query key\n unavailable pass\n}")
	c := harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
	conn := dial(t, url)
	fmt.Fprint(conn, raw("GET /x?a=1&KEY=CALLER&b HTTP/1.1", "Host: a", "Authorization: CALLER"))
	if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Fatalf("answered %s", answer)
	}
	got := upstream.requests()[0]
	if got.query != "a=1&b" || got.header["Authorization"] != nil {
		t.Errorf("the query arrived as %s, Authorization as %q", got.query, got.header["Authorization"])
	}
	c.Eventually(20*time.Second, "the access log says passed", func() bool { return slices.Equal(outcomes(c), []string{"crm passed"}) })
}

// TestNoOtherHandlerComesToSeeTheToken surrounds the proxy with all that Caddy
// has for showing or sending what is in a request.
func TestNoOtherHandlerComesToSeeTheToken(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream, stranger := newRecorder(t), newRecorder(t)
	text, url := caddyfile(t, crmSource(p, ""), fmt.Sprintf(`log
	log_append authorization {header.Authorization}
	log_append key {header.X-Api-Key}
	log_append uri {http.request.uri}
	log_append outcome {http.inject_token.outcome}
	log_append source {http.inject_token.source}
	handle_errors {
		reverse_proxy %[2]s
	}
	handle /error {
		error 418
	}
	handle /fallthrough {
		inject_token crm %[1]s {
			header Authorization
			header X-Api-Key
			query access_token
			@bad status 200
			handle_response @bad {
				error 502
			}
		}
	}
	handle /shown {
		inject_token crm %[1]s {
			header Authorization
			header X-Api-Key
			query access_token
			@all status 2xx
			handle_response @all {
				respond "{header.Authorization} {header.X-Api-Key} {query} {http.request.uri} {http.request.orig_uri} {http.reverse_proxy.header.Authorization} {http.inject_token.outcome} {http.inject_token.token}"
			}
		}
	}
	handle {
		route {
			forward_auth %[2]s {
				uri /auth
				copy_headers Authorization
			}
			header {
				+X-Outcome "{http.inject_token.source} {http.inject_token.outcome}"
				>X-Leak "{header.Authorization} {header.X-Api-Key} {query} {http.request.uri}"
				>X-Told "{http.inject_token.source} {http.inject_token.outcome}"
				defer
			}
			inject_token crm %[1]s {
				header Authorization
				header X-Api-Key
				query access_token
				header_down X-Leak-Too {header.Authorization}{query}
			}
		}
	}`, upstream.address, stranger.address))
	c := harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
	c.Eventually(20*time.Second, "there is a token", func() bool { return p.Count() == 1 })
	var told string
	for _, path := range []string{"/x?a=1", "/x", "/error", "/fallthrough", "/shown?a=1", "/x"} {
		resp, body := harness.Get(t, url+path)
		hasNone(t, p, "the answer to "+path, fmt.Sprint(resp.Header, body))
		if path == "/x" {
			told = resp.Header.Get("X-Told")
		}
		if path == "/shown?a=1" && !strings.Contains(body, "a=1") {
			t.Errorf("handle_response shows %q", body)
		}
	}
	if told != "crm injected" {
		t.Errorf("the placeholders say %q after the proxy", told)
	}
	if n := len(upstream.requests()); n != 5 {
		t.Errorf("%d requests came to the upstream", n)
	}
	for _, request := range upstream.requests() {
		upstream.assertInjected(t, p, request)
	}
	if n := len(stranger.requests()); n != 5 { // 3 of forward_auth, 2 of handle_errors
		t.Errorf("%d requests came to the other upstream", n)
	}
	for _, request := range stranger.requests() {
		hasNone(t, p, "a request to another upstream", fmt.Sprint(request))
	}
	c.Eventually(20*time.Second, "the access log has all requests", func() bool { return c.LogCount("http.log.access", "handled request") == 6 })
	for _, line := range c.LogLines() {
		if line["msg"] == "handled request" && line["token_outcome"] != nil && (line["outcome"] != "injected" || line["source"] != "crm") {
			t.Errorf("log_append says %v and %v", line["outcome"], line["source"])
		}
	}
	hasNone(t, p, "the log", c.Log())
}

// TestTheAccessLogSaysWhatBecameOfTheToken has a site for each outcome.
func TestTheAccessLogSaysWhatBecameOfTheToken(t *testing.T) {
	t.Parallel()
	good, bad := provider.New(t, provider.Dialect{}), provider.New(t, provider.Dialect{})
	bad.Set(func(k *provider.Knobs) { k.Intercept = provider.Fail(http.StatusBadRequest, "unauthorized_client") })
	upstream, refusing := newRecorder(t), newRecorder(t)
	refusing.status = http.StatusUnauthorized
	sources := crmSource(good, "") + "\n" + strings.Replace(crmSource(bad, ""), "source crm", "source dead", 1)
	text, url := caddyfile(t, sources, fmt.Sprintf(`log
	inject_token /injected crm %[1]s
	inject_token /refused crm %[2]s
	inject_token /passed dead %[1]s {
		unavailable pass
	}
	inject_token /kept crm %[1]s {
		existing keep
	}
	inject_token /failed dead %[1]s
	respond /nothing 204`, upstream.address, refusing.address))
	c := harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
	var want []string
	for _, request := range []struct{ path, source, outcome string }{
		{"/injected", "crm", "injected"},
		{"/refused", "crm", "refused"},
		{"/passed", "dead", "passed"},
		{"/kept", "crm", "kept"},
		{"/failed", "dead", "failed"},
		{"/nothing", "<nil>", "<nil>"},
	} {
		req, err := http.NewRequest(http.MethodGet, url+request.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer CALLER")
		harness.Do(t, req)
		want = append(want, request.source+" "+request.outcome)
		c.Eventually(20*time.Second, "the access log has a line", func() bool { return len(outcomes(c)) == len(want) })
	}
	if got := outcomes(c); !slices.Equal(got, want) {
		t.Errorf("the access log says %q, want %q", got, want)
	}
	hasNone(t, good, "the log", c.Log())
}

// TestTheTokenOfASourceGoesToItsUpstreamAlone has two sources on two sites and
// on one, and callers that try to have them confused.
func TestTheTokenOfASourceGoesToItsUpstreamAlone(t *testing.T) {
	t.Parallel()
	providers := map[string]*provider.Provider{"crm": provider.New(t, provider.Dialect{}), "erp": provider.New(t, provider.Dialect{})}
	upstreams := map[string]*recorder{"crm": newRecorder(t), "erp": newRecorder(t)}
	sources := crmSource(providers["crm"], "") + "\n" + strings.Replace(crmSource(providers["erp"], ""), "source crm", "source erp", 1)
	text, url := caddyfile(t, sources, fmt.Sprintf(`handle_path /crm/* {
		inject_token crm %[1]s
	}
	handle_path /erp/* {
		inject_token erp %[2]s
	}
	handle /both {
		route {
			inject_token crm %[1]s {
				@ok status 200
				handle_response @ok {
					inject_token erp %[2]s
				}
			}
		}
	}`, upstreams["crm"].address, upstreams["erp"].address))
	harness.Start(t, anyHost(text), withSecret(provider.ClientSecret))
	var waiting sync.WaitGroup
	for _, name := range []string{"crm/x", "erp/x", "both", "crm/../erp/x", "erp/%2e%2e/crm/x", "crm/erp/x"} {
		for range 4 {
			waiting.Go(func() {
				req, err := http.NewRequest(http.MethodGet, url+"/"+name, nil)
				if err != nil {
					t.Error(err)
					return
				}
				other := "erp"
				if strings.HasPrefix(name, "erp") {
					other = "crm"
				}
				req.Host = upstreams[other].address
				harness.Do(t, req)
			})
		}
	}
	waiting.Wait()
	for name, upstream := range upstreams {
		seen := upstream.requests()
		if len(seen) < 8 {
			t.Errorf("%d requests came to %s", len(seen), name)
		}
		for _, request := range seen {
			if !authorized(providers[name], request.header["Authorization"]) {
				t.Errorf("to %s came %q", name, request.header["Authorization"])
			}
		}
		for other, p := range providers {
			if other != name {
				hasNone(t, p, "what came to "+name, fmt.Sprint(seen))
			}
		}
	}
}

// TestACallersTrailerIsNoCredentialOverHTTP2 is the trick with the trailer for
// a protocol in which no bytes need to be forged.
func TestACallersTrailerIsNoCredentialOverHTTP2(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	upstream := newRecorder(t)
	text, url := caddyfile(t, crmSource(p, ""), "inject_token crm h2c://"+upstream.address+" {\n header X-Api-Key\n}")
	harness.Start(t, strings.Replace(text, "{{globals}}", "{{globals}}\n servers {\n protocols h1 h2c\n}", 1), withSecret(provider.ClientSecret))
	c := way{http: url}.clients(t)["h2c"]
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.base, io.MultiReader(strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Api-Key": {"CALLER"}, "X_api_key": {"CALLER"}, "X-Kept": {"yes"}}
	c.do(t, req)
	got := upstream.requests()[0]
	if got.trailer.Get("X-Kept") != "yes" || strings.Contains(fmt.Sprint(got), "CALLER") {
		t.Errorf("the trailers arrived as %v", got.trailer)
	}
	if !slices.Equal(got.header["X-Api-Key"], p.IssuedTokens()) || got.body != "body" {
		t.Errorf("%q arrived with the header %v", got.body, got.header)
	}
}
