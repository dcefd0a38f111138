package injecttoken

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// awkwardToken is a token of which every encoding differs.
const awkwardToken = `s3cr3t+to/ken==tail"end`

func outcomeOf(req *http.Request) string {
	outcome, _ := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).GetString("http.inject_token.outcome")
	return outcome
}

func TestAnAnswerRefersToTheRequestOfReverseProxy(t *testing.T) {
	transport := newTestTransport(t, &Transport{Query: []string{"key"}}, func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusFound, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})
	req := newTestRequest(t, http.MethodGet, "a=1", nil)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Request != req { // http.Client, which sends health checks, puts its URL into errors
		t.Errorf("the answer refers to %v", resp.Request.URL)
	}
}

// hintOf asks with a query and returns the early hint that the caller sees.
func hintOf(t *testing.T, transport *Transport, query string) (seen textproto.MIMEHeader) {
	t.Helper()
	req := newTestRequest(t, http.MethodGet, query, nil)
	req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error { seen = header; return nil },
	}))
	if _, err := transport.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestAnEarlyHintDoesNotShowTheTokenWhereverItStands(t *testing.T) {
	for name, transport := range map[string]*Transport{
		"header": {Headers: []HeaderInjection{{Field: "Authorization"}}},
		"query":  {Query: []string{"key"}},
	} {
		transport = newTestTransport(t, transport, func(req *http.Request) (*http.Response, error) {
			sent := req.Header.Get("Authorization") + " " + req.URL.String()
			hint := textproto.MIMEHeader{"X-Debug": {sent}, "Link": {"<" + req.URL.String() + ">"}}
			if err := httptrace.ContextClientTrace(req.Context()).Got1xxResponse(http.StatusEarlyHints, hint); err != nil {
				return nil, err
			}
			return ok(req)
		})
		seen := hintOf(t, transport, "a=1")
		if seen.Get("X-Debug") == "" || strings.Contains(seen.Get("X-Debug")+seen.Get("Link"), "s3cr3t") {
			t.Errorf("%s: the caller sees %v", name, seen)
		}
	}
}

func TestWhatAnUpstreamRepeatsDoesNotShowTheTokenInAnyEncoding(t *testing.T) {
	for name, said := range map[string]string{
		"plain":      awkwardToken,
		"path":       url.PathEscape(awkwardToken),
		"query":      url.QueryEscape(awkwardToken),
		"lower":      strings.ToLower(url.QueryEscape(awkwardToken)),
		"double":     url.QueryEscape("https://a.example/?key=" + url.QueryEscape(awkwardToken)),
		"JSON":       `{"token":"s3cr3t+to\/ken==tail\"end"}`,
		"HTML":       "s3cr3t+to/ken==tail&quot;end",
		"base64":     base64.StdEncoding.EncodeToString([]byte("Bearer " + awkwardToken)),
		"base64url":  base64.RawURLEncoding.EncodeToString([]byte("Bearer: " + awkwardToken)),
		"long value": strings.Repeat("x", 2*mostShown) + awkwardToken,
	} {
		h := newHidden(awkwardToken)
		header := http.Header{"X-Debug": {"you sent " + said + " to us"}}
		h.inHeader(header)
		if got := header.Get("X-Debug"); !strings.Contains(got, "[redacted]") {
			t.Errorf("%s: the token is left in %.200q", name, got)
		}
	}
	for _, innocent := range []string{
		"default-src 'self'; img-src *", "session=3f2a9c0b1d7e4a58a6f0c2d4e6b8a0f1; Path=/; HttpOnly", "text/html; charset=utf-8", `W/"5f-100%"`,
	} {
		if got := newHidden(awkwardToken).in(innocent); got != innocent {
			t.Errorf("%q became %q", innocent, got)
		}
	}
}

func TestWhatRepeatsTheURLIsLookedThroughMoreClosely(t *testing.T) {
	in, m := newInjection(nil, []string{"access_token"}, nil)
	if m != nil {
		t.Fatal(m)
	}
	h := newHidden(awkwardToken)
	packed := base64.RawURLEncoding.EncodeToString([]byte("/api?access_token=" + url.QueryEscape(awkwardToken)))
	header := http.Header{"Location": {"/login?state=" + packed}}
	in.scrub(header, h)
	if got := header.Get("Location"); !strings.Contains(got, "[redacted]") {
		t.Errorf("Location is %q", got)
	}
	long := strings.Repeat("x", mostShown) + url.QueryEscape(awkwardToken)
	if got := h.in(long); strings.Contains(got, "s3cr3t") {
		t.Errorf("a long value ends in %q", got[len(got)-60:])
	}
}

func TestAReasonPhraseDoesNotShowTheToken(t *testing.T) {
	transport := newTestTransport(t, new(Transport), func(req *http.Request) (*http.Response, error) {
		return &http.Response{Status: "418 bad s3cr3t.token", StatusCode: 418, Header: http.Header{}, Body: http.NoBody}, nil
	})
	resp, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	if resp.Status != "418 bad [redacted]" {
		t.Errorf("the status is %q", resp.Status)
	}
}

func TestARedirectsPageIsDroppedAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name           string
		status         int
		location, want string
		dropped        bool
	}{
		{"to the same place with a slash", 301, "/path/?a=1&key=s3cr3t.token", "/path/?a=1", true},
		{"to a query alone", 302, "?key=s3cr3t.token", "?", true},
		{"not modified", 304, "/path", "/path", false},
		{"created", 201, "/path/1?key=s3cr3t.token", "/path/1", false},
	} {
		page := &page{Reader: strings.NewReader("the page"), closed: make(chan struct{})}
		transport := newTestTransport(t, &Transport{Query: []string{"key"}}, func(req *http.Request) (*http.Response, error) {
			header := http.Header{"Location": {c.location}, "Etag": {`"1"`}, "Content-Length": {"8"}}
			return &http.Response{StatusCode: c.status, Header: header, Body: page, ContentLength: 8}, nil
		})
		resp, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "a=1", nil))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if got := resp.Header.Get("Location"); got != c.want {
			t.Errorf("%s: Location %q, want %q", c.name, got, c.want)
		}
		if dropped := len(body) == 0 && resp.Header.Get("Etag") == ""; dropped != c.dropped {
			t.Errorf("%s: body %q and %v", c.name, body, resp.Header)
		}
		if c.dropped {
			<-page.closed
			if page.Len() > 0 { // the connection would be lost
				t.Errorf("%s: %d bytes are not read", c.name, page.Len())
			}
		}
	}
}

type page struct {
	*strings.Reader
	once   sync.Once
	closed chan struct{}
}

func (p *page) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func TestARedirectDoesNotWaitForItsPage(t *testing.T) {
	never, end := io.Pipe()
	defer end.Close()
	transport := newTestTransport(t, &Transport{Query: []string{"key"}}, func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 302, Header: http.Header{"Location": {"/x"}}, Body: never, ContentLength: 100}, nil
	})
	began := time.Now()
	if _, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "", nil)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took >= shortly {
		t.Errorf("it took %v", took)
	}
	if _, err := end.Write(make([]byte, 2*shortBody)); err == nil { // it is given up before
		t.Error("the page is read to its end")
	}
}

func TestAHintIsLeftAsItIsWhereNoTokenWasPut(t *testing.T) {
	const link = "</x?key=own&a=1>"
	transport := newTestTransport(t, &Transport{Query: []string{"key"}, Existing: "keep"}, func(req *http.Request) (*http.Response, error) {
		err := httptrace.ContextClientTrace(req.Context()).Got1xxResponse(http.StatusEarlyHints, textproto.MIMEHeader{"Link": {link}})
		if err != nil {
			return nil, err
		}
		return ok(req)
	})
	seen := hintOf(t, transport, "key=own&a=1")
	if seen.Get("Link") != link {
		t.Errorf("the caller sees %v", seen)
	}
}

func TestAParameterWithBracketsIsReplacedToo(t *testing.T) {
	var query string
	transport := newTestTransport(t, &Transport{Query: []string{"auth[token]"}}, func(req *http.Request) (*http.Response, error) {
		query = req.URL.RawQuery
		return ok(req)
	})
	if _, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "auth[token]=own&b=1&AUTH%5Btoken%5D=own&auth=x", nil)); err != nil {
		t.Fatal(err)
	}
	if query != "b=1&auth=x&auth%5Btoken%5D=s3cr3t.token" {
		t.Errorf("sent the query %q", query)
	}
}

func TestABlankDoesNotCutTheTokenOff(t *testing.T) {
	var query string
	transport := newTestTransport(t, &Transport{Query: []string{"key"}}, func(req *http.Request) (*http.Response, error) {
		query = req.URL.RawQuery
		return ok(req)
	})
	if _, err := transport.RoundTrip(newTestRequest(t, http.MethodGet, "a=1 b", nil)); err != nil { // as HTTP/2 lets it come
		t.Fatal(err)
	}
	if query != "a=1%20b&key=s3cr3t.token" {
		t.Errorf("sent the query %q", query)
	}
}

func TestARequestThatNeverLeftIsNotCalledInjected(t *testing.T) {
	for want, failure := range map[string]error{
		failed:   reverseproxy.NewDialError(errors.New("refused")),
		injected: errors.New("connection reset"),
	} {
		transport := newTestTransport(t, new(Transport), func(*http.Request) (*http.Response, error) { return nil, failure })
		req := newTestRequest(t, http.MethodGet, "", nil)
		if _, err := transport.RoundTrip(req); err == nil {
			t.Fatal("no error")
		}
		if got := outcomeOf(req); got != want {
			t.Errorf("outcome %s, want %s", got, want)
		}
	}
}

func TestThePasswordOfAForwardProxyIsNotShown(t *testing.T) {
	transport := newTestTransport(t, new(Transport), nil)
	transport.HTTPTransport.Transport.Proxy = func(*http.Request) (*url.URL, error) {
		return url.Parse(strings.Join([]string{"http://robot:s3cr3t@ba", "d:99"}, " "))
	}
	req := newTestRequest(t, http.MethodGet, "", nil)
	req.URL.Scheme = "https"
	_, err := transport.RoundTrip(req)
	if err == nil || strings.Contains(err.Error(), "s3cr3t") || !strings.Contains(err.Error(), "an address is not a URL") {
		t.Errorf("the error is %v", err)
	}
}

func TestKeepHeedsACallersTrailer(t *testing.T) {
	var sent http.Header
	transport := newTestTransport(t, &Transport{Existing: "keep"}, func(req *http.Request) (*http.Response, error) {
		sent = req.Header
		return ok(req)
	})
	req := newTestRequest(t, http.MethodPost, "", strings.NewReader("body"))
	req.Trailer = http.Header{"Authorization": nil}
	if _, err := transport.RoundTrip(req); err != nil {
		t.Fatal(err)
	}
	if sent.Get("Authorization") != "" || outcomeOf(req) != kept {
		t.Errorf("sent %v, outcome %s", sent, outcomeOf(req))
	}
}

func TestOurOwnAnswersSayWhatCallersCanDo(t *testing.T) {
	at := func(status int, code string) *tokensource.Error {
		return &tokensource.Error{StatusCode: status, Code: code}
	}
	for _, c := range []struct {
		name          string
		err           error
		status        int
		retry, detail string
		says          string
	}{
		{"it is down", &refresher.Unavailable{Cause: at(503, ""), RetryAfter: 2500 * time.Millisecond}, 503, "3", "", "does not issue one at present"},
		{"it says how long", &refresher.Unavailable{Cause: at(429, "slow_down"), RetryAfter: 90 * time.Second}, 503, "90", "slow_down", "does not issue one at present"},
		{"nobody knows how long", &refresher.Unavailable{Cause: at(500, "")}, 503, "1", "", "does not issue one at present"},
		{"at once", &refresher.Unavailable{Cause: at(500, ""), RetryAfter: time.Millisecond}, 503, "1", "", "does not issue one at present"},
		{"it rejects us", &refresher.Unavailable{Cause: at(401, "invalid_client"), Permanent: true}, 502, "", "invalid_client", "rejects it"},
		{"a secret is missing", &refresher.Unavailable{Cause: at(0, ""), Permanent: true}, 502, "", "", "configuration of the token source crm does not work"},
		{"it hangs", &refresher.Unavailable{Waited: true, Ended: errWait}, 504, "", "wait", "in time"},
		{"it hangs, and reverse_proxy tries no longer", &refresher.Unavailable{Waited: true, Ended: errTryDuration}, 503, "1", "lb_try_duration", "within lb_try_duration"},
		{"it hangs, and the request has a deadline", &refresher.Unavailable{Waited: true, Ended: context.DeadlineExceeded}, 504, "", "deadline of the request", "in time"},
		{"another error", errors.New("other"), 503, "1", "", "does not issue one at present"},
		{"a code that is none", &refresher.Unavailable{Cause: at(400, "a\"b\\\r\n"), Permanent: true}, 502, "", "a_b___", "rejects it"},
	} {
		resp := unavailable(newTestRequest(t, http.MethodGet, "", nil), "crm", c.err)
		body, _ := io.ReadAll(resp.Body)
		status := "inject_token; error=proxy_internal_response"
		if c.detail != "" {
			status += `; details="` + c.detail + `"`
		}
		if resp.StatusCode != c.status || resp.Header.Get("Retry-After") != c.retry || resp.Header.Get("Proxy-Status") != status ||
			resp.Header.Get("Cache-Control") != "no-store" || !strings.Contains(string(body), c.says) {
			t.Errorf("%s: answered %d %v %s", c.name, resp.StatusCode, resp.Header, body)
		}
	}
}
