package caddy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// visitor is a person with cookies, who says yes to every form: the browser is
// the real one in the tests of authorizations, and here it is the servers that
// are.
type visitor struct {
	t      *testing.T
	client *http.Client
}

func newVisitor(t *testing.T) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{t, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// what a person fills in, by the names of fields.
var filledIn = map[string]string{"login": "peter", "username": "peter", "password": "verysecure"}

// scripted is where a button leads that is not part of a form.
var scripted = regexp.MustCompile(`location\.href='([^']+)'`)

// agree opens an address, says yes to what is asked, and returns the address of the
// last page: the first that begins with end, which is not opened, or else one that
// asks nothing more.
func (v *visitor) agree(address, end string) (landing string) {
	v.t.Helper()
	next, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	for range 20 {
		if end != "" && strings.HasPrefix(next.URL.String(), end) {
			return next.URL.String()
		}
		following, err := v.step(next)
		if err != nil {
			v.t.Fatalf("at %s: %v", next.URL.Redacted(), err)
		}
		if following == nil {
			return next.URL.String()
		}
		next = following
	}
	v.t.Fatalf("there is no end to the pages of %s", address)
	return ""
}

// step sends a request, and returns what a person does next; nil where there is
// nothing to do.
func (v *visitor) step(req *http.Request) (next *http.Request, err error) {
	resp, err := v.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if location, err := resp.Location(); err == nil {
		return http.NewRequest(http.MethodGet, location.String(), nil)
	} else if !errors.Is(err, http.ErrNoLocation) {
		return nil, err
	}
	if resp.StatusCode >= 400 {
		return nil, fmt.Errorf("answered %d: %.500s", resp.StatusCode, body)
	}
	if form := formOf(body); form != nil {
		return form.submit(req.URL)
	}
	if button := scripted.FindSubmatch(body); button != nil {
		u, err := req.URL.Parse(string(button[1]))
		if err != nil {
			return nil, err
		}
		return http.NewRequest(http.MethodGet, u.String(), nil)
	}
	return nil, nil // the end
}

// form is the first form of a page, filled in.
type form struct {
	action string
	values url.Values
}

func formOf(page []byte) *form {
	var f *form
	for tokens := html.NewTokenizer(strings.NewReader(string(page))); ; {
		switch tokens.Next() {
		case html.ErrorToken:
			return f
		case html.StartTagToken, html.SelfClosingTagToken:
			token := tokens.Token()
			attributes := make(map[string]string)
			for _, a := range token.Attr {
				attributes[a.Key] = a.Val
			}
			switch {
			case token.Data == "form" && f == nil:
				f = &form{attributes["action"], make(url.Values)}
			case token.Data == "input" && f != nil && attributes["name"] != "":
				f.values.Set(attributes["name"], attributes["value"])
				if text, known := filledIn[attributes["name"]]; known {
					f.values.Set(attributes["name"], text)
				}
			}
		case html.EndTagToken:
			if token := tokens.Token(); token.Data == "form" && f != nil {
				return f
			}
		}
	}
}

func (f *form) submit(page *url.URL) (*http.Request, error) {
	u, err := page.Parse(f.action)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, u.String(), strings.NewReader(f.values.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req, nil
}
