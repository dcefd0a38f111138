package injecttoken

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// others returns the sources whose tokens this one sends, by {source.NAME}.
func (s *Source) others() []string {
	var names []string
	for _, t := range s.otherTemplates() {
		names = append(names, namesOfOthers(t.text)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// otherTemplates are the options in which tokens of other sources can stand.
func (s *Source) otherTemplates() []templated {
	templates := slices.DeleteFunc(s.templates(), func(t templated) bool { return !takesOthers(t.option) })
	return append(templates, templated{"subject_token", s.SubjectToken}, templated{"actor_token", s.ActorToken})
}

func takesOthers(option string) bool {
	of, rest, inner := strings.Cut(option, " ")
	switch of {
	case "param", "param_json":
		return true
	case "token_request", "refresh_request":
		return inner && rest != "url"
	}
	return false
}

func namesOfOthers(text string) (names []string) {
	for _, placeholder := range tokensource.Placeholders(text) {
		if name, ok := strings.CutPrefix(placeholder, tokensource.SourcePlaceholder); ok {
			names = append(names, name)
		}
	}
	return names
}

// checkOtherPlaceholder refuses {source.NAME} where it can mean nothing.
func checkOtherPlaceholder(option, name string) *mistake {
	if !takesOthers(option) {
		return wrong(option, "{source.NAME} can stand in param, in header, in subject_token and in actor_token")
	}
	if !sourceName.MatchString(strings.TrimPrefix(name, tokensource.SourcePlaceholder)) {
		return wrong(option, "in {source.NAME} the name of a token source begins with a lower-case letter or a digit and goes on with such, _ or -")
	}
	return nil
}

// checkOthers wants the sources that others name to exist, and none to wait for
// itself. It returns the name of the source with the mistake.
func checkOthers(sources map[string]*Source) (string, *mistake) {
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		for _, t := range sources[name].otherTemplates() {
			for _, other := range namesOfOthers(t.text) {
				if sources[other] == nil {
					return name, wrong(t.option, "%v", unknownSource(other, sources))
				}
				if sources[other].takesCallers() {
					return name, wrong(t.option, "the source %s has a token for each caller, and none of its own", other)
				}
				if path := pathTo(sources, other, name, nil); path != nil {
					return name, wrong(t.option, "this waits for itself: %s", strings.Join(append([]string{name}, path...), " → "))
				}
			}
		}
	}
	return "", nil
}

// pathTo returns how one source leads to another, by way of those whose tokens it
// sends; nil: it does not.
func pathTo(sources map[string]*Source, from, to string, seen []string) []string {
	if from == to {
		return []string{to}
	}
	if sources[from] == nil || slices.Contains(seen, from) {
		return nil
	}
	for _, next := range sources[from].others() {
		if path := pathTo(sources, next, to, append(seen, from)); path != nil {
			return append([]string{from}, path...)
		}
	}
	return nil
}

// otherSources are the sources of one configuration, to each other.
type otherSources map[string]*runningSource

// soon is when a source is tried again that waits for one which an operator must see
// to. It costs no provider a request.
const soon = 5 * time.Second

// Token waits for the token of another source.
func (o otherSources) Token(ctx context.Context, name string) (*tokensource.Token, *tokensource.Error) {
	token, err := o[name].refresher.Token(ctx)
	if err == nil {
		return token, nil
	}
	problem := new(tokensource.Error)
	u, ok := errors.AsType[*refresher.Unavailable](err)
	switch {
	case !ok:
	case u.Permanent:
		problem.Reason, problem.RetryAfter = u.Cause.Error(), soon
	case u.Cause != nil:
		problem.Reason, problem.RetryAfter = u.Cause.Error(), u.RetryAfter
	case u.Waited:
		problem.Reason = "it did not get one in time"
	}
	return nil, problem
}

// Current returns the token of another source, if there is one.
func (o otherSources) Current(name string) *tokensource.Token { return o[name].refresher.Current() }

// Replacement reports the token of another source as refused.
func (o otherSources) Replacement(ctx context.Context, name string, refused *tokensource.Token) *tokensource.Token {
	o[name].refresher.Report(refused)
	token, _ := o[name].refresher.Replacement(ctx, refused)
	return token
}

// Identity returns whose tokens another source obtains.
func (o otherSources) Identity(name string) (string, error) { return o[name].source.Identity() }
