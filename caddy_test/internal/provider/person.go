package provider

import (
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
)

// Visited is what a person has before them after a visit to a page of the
// provider.
type Visited struct {
	Status   int
	Location string     // where the browser goes on, if it does
	Answer   url.Values // code, state, iss or error: of Location, or of the form that the browser sends
	Action   string     // where the browser sends a form, if it does
	Shown    string     // a code on the page
}

var (
	shownCode  = regexp.MustCompile(`<code>(.*?)</code>`)
	formAction = regexp.MustCompile(`<form method=post action="(.*?)">`)
	formField  = regexp.MustCompile(`<input type=hidden name="(.*?)" value="(.*?)">`)
)

// Visit opens a page of the provider as a person does, and goes nowhere else.
func (p *Provider) Visit(address string) (v Visited) {
	p.tb.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Get(address)
	if err != nil {
		p.tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.tb.Fatal(err)
	}
	v.Status, v.Location, v.Answer = resp.StatusCode, resp.Header.Get("Location"), url.Values{}
	if v.Location != "" {
		target, err := url.Parse(v.Location)
		if err != nil {
			p.tb.Fatal(err)
		}
		v.Answer = target.Query()
	}
	if m := formAction.FindSubmatch(body); m != nil {
		v.Action = html.UnescapeString(string(m[1]))
		for _, field := range formField.FindAllSubmatch(body, -1) {
			v.Answer.Set(string(field[1]), html.UnescapeString(string(field[2])))
		}
	}
	if m := shownCode.FindSubmatch(body); m != nil {
		v.Shown = html.UnescapeString(string(m[1]))
	}
	return v
}
