package tokensource

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// SourcePlaceholder is what a placeholder begins with that stands for the current
// token of another source, by its name.
const SourcePlaceholder = "source."

// Others are the other sources whose tokens a source sends, by their names.
type Others interface {
	// Token returns the token of a source. Its first one is waited for until the
	// context ends.
	Token(ctx context.Context, name string) (*Token, *Error)

	// Current returns the token of a source if it has a valid one, else nil.
	Current(name string) *Token

	// Replacement reports that a provider has refused a token, and returns the one
	// that takes its place; nil where there will be none soon.
	Replacement(ctx context.Context, name string, refused *Token) *Token

	// Identity returns whose tokens a source obtains; see Source.Identity.
	Identity(name string) (string, error)
}

// errNoOther is that of a token that is not there yet.
type errNoOther struct{ name string }

func (e *errNoOther) Error() string { return "the token source " + e.name + " has no token" }

// settle resolves the configuration for one request. The tokens of other sources
// that stand in it are waited for.
func (s *Source) settle(ctx context.Context, why purpose, current descent, accessToken string, found *tokenEndpoint) (*settings, *Error) {
	tokens := make(map[string]*Token)
	for {
		set, err := s.resolve(why, current, accessToken, found, func(name string) (string, error) {
			if token := tokens[name]; token != nil {
				return token.AccessToken, nil
			}
			return "", &errNoOther{name}
		})
		if missing, ok := errors.AsType[*errNoOther](err); ok {
			token, problem := s.other(ctx, missing.name)
			if problem != nil {
				return nil, problem
			}
			tokens[missing.name] = token
			continue
		}
		if err != nil {
			s.missed(found)
			return nil, &Error{Reason: err.Error(), Permanent: true}
		}
		set.others = tokens
		return set, nil
	}
}

// other returns the token of another source. That there is none passes: it is that
// source's provider, or its operator, who has to see to it.
func (s *Source) other(ctx context.Context, name string) (*Token, *Error) {
	if s.config.Others == nil {
		return nil, &Error{Reason: (&errNoOther{name}).Error()}
	}
	token, problem := s.config.Others.Token(ctx, name)
	if problem == nil {
		return token, nil
	}
	reason := (&errNoOther{name}).Error()
	if text := problem.Error(); text != "" {
		reason += ": " + text
	}
	return nil, &Error{Reason: reason, RetryAfter: problem.RetryAfter, Source: name}
}

// currentOther is for those who do not wait.
func (s *Source) currentOther(name string) (string, error) {
	if s.config.Others != nil {
		if token := s.config.Others.Current(name); token != nil {
			return token.AccessToken, nil
		}
	}
	return "", &errNoOther{name}
}

// identityOfOther stands for a token where it is asked whose it is: a new one of the
// same source is nothing new.
func (s *Source) identityOfOther(name string) (string, error) {
	if s.config.Others == nil {
		return SourcePlaceholder + name, nil
	}
	identity, err := s.config.Others.Identity(name)
	return SourcePlaceholder + name + " " + identity, err
}

// replaceOthers reports the tokens of other sources that went with a request which
// the provider did not take: one of them may have been to blame. It returns whether
// there is another one now.
func (s *Source) replaceOthers(ctx context.Context, set *settings, problem *Error) (replaced bool) {
	if !mayBlameToken(problem) || problem.Code == "invalid_client" && set.clientAuth != "none" {
		return false
	}
	for name, token := range set.others {
		if s.config.Others.Replacement(ctx, name, token) != nil {
			replaced = true
		}
	}
	return replaced
}

// mayBlameToken says whether a provider's answer can mean that a token in the request
// is not good.
func mayBlameToken(e *Error) bool {
	switch e.StatusCode {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestTimeout, http.StatusGone, http.StatusRequestEntityTooLarge,
		http.StatusMisdirectedRequest, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return e.StatusCode >= 400 && e.StatusCode < 500
}

// isOther says whether a placeholder stands for the token of another source.
func isOther(name string) (source string, ok bool) {
	source, ok = strings.CutPrefix(name, SourcePlaceholder)
	return source, ok && source != ""
}
